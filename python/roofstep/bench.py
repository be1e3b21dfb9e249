"""How fast steps are here, beside the roof that memory sets: `python -m roofstep bench`."""

from __future__ import annotations

import argparse
import functools
import sys

import roofstep
from roofstep import _core, traffic
from roofstep.arguments import whole_number
from roofstep.timing import alone, compare, quartiles

SHOWN = ("SGD", "Momentum", "AdamW", "AdamW, clipped")
TINY = (1000, 64)  # tensors, elements of each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m roofstep bench``."""
    add = parser.add_argument
    add("--parameters", type=whole_number(1, 2**40), default=1 << 24, metavar="N",
        help="float32 elements of the one tensor; default: %(default)s")  # fmt: skip
    add("--threads", type=whole_number(1, 1024), metavar="N", help="default: all CPUs")
    add("--repetitions", type=whole_number(2, 10**6), default=31, metavar="N",
        help="default: %(default)s")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Measure and print the report; return the exit status."""
    if args.threads is not None:
        roofstep.set_num_threads(args.threads)
    print(
        f"roofstep {roofstep.__version__}, ISA {_core.isa()}, threads: "
        f"{roofstep.get_num_threads()}; medians of {args.repetitions}, in parentheses quartiles\n\n"
        f"{args.parameters} float32 parameters in one tensor; roof: a loop that moves the same\n"
        f"  {'':<15}{'bytes/parameter':>16}{'roof, GB/s':>13}{'step, GB/s':>13}"
        f"{'share of the roof':>28}"
    )
    try:
        roof = traffic.Roof(args.parameters, [traffic.CASES[name] for name in SHOWN])
        for name in SHOWN:
            _show(name, roof, args)
    except MemoryError:
        print("There is not so much memory; take fewer --parameters", file=sys.stderr)
        return 1
    tensors, size = TINY
    step = traffic.CASES["AdamW"].step([traffic.parameter(size) for _ in range(tensors)])
    times = alone(step, 0.0, args.repetitions, args.repetitions)
    low, median, high = (1e9 * took / tensors for took in quartiles(times))
    print(
        f"\n{tensors} tensors of {size} elements, a step of AdamW: "
        f"{median:.0f} ns for each tensor ({low:.0f} to {high:.0f})"
    )
    return 0


def _show(name: str, roof: traffic.Roof, args: argparse.Namespace) -> None:
    """Measure one optimizer and print its row."""
    case = traffic.CASES[name]
    step = case.step([traffic.parameter(args.parameters)])
    loop = functools.partial(roof.stream, case.passes)
    row = compare(step, loop, 0.0, args.repetitions, args.repetitions).row()
    moved = sum(one.bytes for one in case.passes) * args.parameters / 1e3  # per microsecond: GB/s
    share = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    print(
        f"  {name:<15}{case.bytes:>16}{moved / row['peer_us']:>13.1f}"
        f"{moved / row['own_us']:>13.1f}{share:>28}",
        flush=True,
    )
