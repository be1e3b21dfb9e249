"""The command `python -m bench`: runs the cases, each part of one in a process of its own."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import roofstep
from bench import child, machine, report
from bench.case import Options, Row, bars_of
from roofstep.arguments import whole_number

# In the order of the report.
CASES = ("roof", "models", "sizes", "loops", "idle", "kernels", "compiled", "memory")

HERE = Path(__file__).parent


def case_of(name: str) -> Any:
    """The module of a case."""
    return importlib.import_module(f"bench.{name}")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=sys.modules["bench"].__doc__
    )
    parser.add_argument(
        "--short",
        action="store_true",
        help="a minute, to see that everything runs: few and small shapes, no bar is judged",
    )
    parser.add_argument("--only", nargs="+", metavar="CASE", default=CASES, choices=CASES)
    parser.add_argument("--peers", nargs="+", default=(), help="libraries; default all")
    parser.add_argument("--optimizers", nargs="+", default=(), help="default all")
    parser.add_argument("--models", nargs="+", default=(), help="default all")
    parser.add_argument("--items", default="*", metavar="GLOB", help="by name; default all")
    parser.add_argument(
        "--threads",
        type=whole_number(1, os.cpu_count() or 1),
        default=roofstep.get_num_threads(),
        help="default: as roofstep has them",
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        help="for each comparison that is held to a bar, others get less; default 1, short 0.02",
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="default bench/results")
    return parser.parse_args(arguments)


def positive(text: str) -> float:
    """For argparse: a number above 0."""
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def main(arguments: list[str] | None = None) -> int:
    """Run, write, print; the status is 0 if everything ran and, unless short, met its bars."""
    args = parse(arguments)
    options = Options(
        short=args.short,
        seconds=args.seconds or (0.02 if args.short else 1.0),
        threads=args.threads,
        peers=tuple(args.peers),
        optimizers=tuple(args.optimizers),
        models=tuple(args.models),
    )
    header = machine.header(options.threads)
    plans = {
        name: [one for one in case_of(name).plan(options) if fnmatchcase(one.name, args.items)]
        for name in args.only
    }
    if not any(plans.values()):
        raise SystemExit("nothing to measure: no item of these cases is named like this")
    rows: dict[str, list[Row]] = {name: [] for name in plans}
    try:
        for name, items in plans.items():
            rows[name].extend(child.run(name, items, options))
    except KeyboardInterrupt:
        header["interrupted"] = "what follows is what was measured until then"
    header["load after"] = machine.load()
    cases = {name: case_of(name) for name in plans}
    bars = [] if args.short else [bar for name in cases for bar in bars_of(cases[name], rows[name])]
    print(report.write(args.out, header, cases, rows, bars))
    if "interrupted" in header:
        return 130
    failed = any("failure" in row for found in rows.values() for row in found)
    return int(failed or any(bar.met is False for bar in bars))


if __name__ == "__main__":
    sys.exit(main())
