"""What is of another library is known by its class; the library's package is imported then."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import Any


def static_graphs(values: Iterable[object]) -> Any:
    """`roofstep.paddle.static` if one of these is a value of a static program, else None."""
    kinds = _of_paddle("pir.Value", "base.framework.Variable")
    # Not by isinstance: in dynamic mode Paddle's tensors pass for values of its former programs.
    if not kinds or all(kinds.isdisjoint(type(value).__mro__) for value in values):
        return None
    return importlib.import_module("roofstep.paddle.static")


def settings(value: object) -> Any:
    """`roofstep.paddle.settings` if this is a clip or regularizer of Paddle's, else None."""
    kinds = _of_paddle("nn.clip.ClipGradBase", "regularizer.WeightDecayRegularizer")
    if not isinstance(value, tuple(kinds)):
        return None
    return importlib.import_module("roofstep.paddle.settings")


def _of_paddle(*paths: str) -> set[Any]:
    """Classes of Paddle, as far as it is imported and has them."""
    found = set()
    for path in paths:
        place: Any = sys.modules.get("paddle")
        for name in path.split("."):
            place = getattr(place, name, None)
        if isinstance(place, type):
            found.add(place)
    return found
