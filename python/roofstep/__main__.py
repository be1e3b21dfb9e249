"""The commands: `python -m roofstep demo`, `info` and `bench`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import roofstep
from roofstep import bench, demo, info


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="roofstep", description=roofstep.__doc__)
    parser.add_argument("--version", action="version", version=roofstep.__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    demo_parser = commands.add_parser("demo", help="train a classifier of handwritten digits")
    demo.add_arguments(demo_parser)
    demo_parser.set_defaults(run=demo.run)
    info_parser = commands.add_parser("info", help="tell ISA, threads, OpenMP, and self-test")
    info_parser.set_defaults(run=lambda _: info.run())
    bench_parser = commands.add_parser("bench", help="time steps beside the roof of memory")
    bench.add_arguments(bench_parser)
    bench_parser.set_defaults(run=bench.run)

    parsed = parser.parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
