"""What the commands take from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """For argparse: what reads a whole number in this range, and refuses all else."""

    def parse(text: str) -> int:
        if not (text.isdecimal() and least <= int(text) <= most):
            message = f"expected a whole number from {least} to {most}, got {text!r}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return parse
