"""A step of one tensor of 1 to 10^8 elements, and of 1 to 10 000 tensors of 64 elements.

peer time / roofstep time, above 1 where roofstep is faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench import versus
from bench.case import Bar, Item, Options, Row

SIZES = [
    1,
    16,
    256,
    1024,
    4096,
    16384,
    32768,
    65536,
    131072,
    262144,
    1 << 20,
    1 << 22,
    1 << 24,
    10**8,
]
COUNTS = [1, 10, 100, 1000, 10_000]
TINY = 64  # elements of each tensor where their number is what counts
SHORT_SIZES, SHORT_COUNTS, SHORT_LIBRARIES = [4096], [100], ("numpy", "torch")
OPTIMIZERS = ("SGD", "AdamW")
# Nanoseconds of roofstep's step for each of 1000 tensors, by the kind of array.
PER_TENSOR = {"NumPy": 60, "torch": 300}


def plan(options: Options) -> list[Item]:
    """Every size and every number of tensors, for each library that is asked for."""
    chosen = versus.libraries(options)
    if options.short and not options.peers:
        chosen = [name for name in chosen if name in SHORT_LIBRARIES]
    optimizers = [name for name in OPTIMIZERS if name in versus.asked(options)]
    one = [(1, size) for size in (SHORT_SIZES if options.short else SIZES)]
    many = [(count, TINY) for count in (SHORT_COUNTS if options.short else COUNTS)]
    return [
        Item(
            f"{optimizer}{', clipped' if clipped else ''}, {tensors} x {elements}",
            library,
            {
                "optimizer": optimizer,
                "clipped": clipped,
                "tensors": tensors,
                "elements": elements,
            },
        )
        for library in chosen
        for tensors, elements in one + many
        for optimizer in optimizers
        for clipped in ((False,) if options.short else (False, True))
    ]


def measure(options: Options, item: Item) -> Iterator[Row]:
    """Each way in which the item's library steps."""
    size = {key: item.arguments[key] for key in ("tensors", "elements")}
    shapes = [(size["elements"],)] * size["tensors"]
    optimizer, clipped = item.arguments["optimizer"], item.arguments["clipped"]
    seconds = 0.2 * options.seconds
    least = 2 if options.short else 7
    for row in versus.compared(item.part, shapes, optimizer, clipped, seconds, least):
        yield row if "note" in row else {**size, **row}


def bars(rows: list[Row]) -> Iterator[Bar]:
    """No size at which a peer is faster; and the time for each tensor where they are tiny."""
    found = [row for row in rows if "ratio" in row]
    for peer in dict.fromkeys(row["peer"] for row in found):
        of_peer = [row for row in found if row["peer"] == peer]
        worst = min(of_peer, key=lambda row: row["low"])
        faster = sum(row["high"] < 1 for row in of_peer)
        unsure = sum(row["low"] < 1 for row in of_peer) - faster
        yield Bar(
            f"every size: lower quartile of {peer} / roofstep",
            1.0,
            worst["low"],
            worst["low"],
            worst["high"],
            remark=f"worst at {worst['optimizer']}{', clipped' if worst['clipped'] else ''}, "
            f"{worst['tensors']} x {worst['elements']}; below 1 at {faster + unsure} of "
            f"{len(of_peer)}, at {faster} with the upper quartile too",
        )
    for kind, most in PER_TENSOR.items():
        tiny = [
            row
            for row in found
            if (row["arrays"], row["optimizer"], row["clipped"]) == (kind, "AdamW", False)
            and (row["tensors"], row["elements"]) == (1000, TINY)
        ]
        if tiny:
            row = min(tiny, key=lambda row: row["own_us"])
            own = [
                row[key] for key in ("own_us", "own_low_us", "own_high_us")
            ]  # ns of a thousandth
            name = f"AdamW, 1000 x {TINY} on {kind}: ns for each tensor"
            yield Bar(name, most, *own, most=True)


def table(rows: list[Row]) -> str:
    """One for each optimizer, clipped and not: a line for each size, a column for each peer."""
    measured = [row for row in rows if "ratio" in row]
    measured.sort(key=lambda row: (row["tensors"], row["elements"]))
    parts = []
    for optimizer in OPTIMIZERS:
        for clipped in (False, True):
            kind = (optimizer, clipped)
            if found := [row for row in measured if (row["optimizer"], row["clipped"]) == kind]:
                parts.append(f"**{optimizer}{', clipped' if clipped else ''}**\n")
                parts.append(versus.table(found, "tensors x elements", _size) + "\n")
    return "\n".join(parts) or "Nothing was measured."


def _size(row: Row) -> str:
    return f"{row['tensors']} x {row['elements']}"


def plot(rows: list[Row], directory: Path) -> list[str]:
    """AdamW, unclipped: time against size, nanoseconds for each tensor against their number."""
    from matplotlib.figure import Figure

    found = [
        row for row in rows if "ratio" in row and row["optimizer"] == "AdamW" and not row["clipped"]
    ]
    names = []
    for name, chosen, across, label, scale in (
        ("time-against-size.png", [r for r in found if r["tensors"] == 1], "elements", "us", 1.0),
        (
            "ns-per-tensor.png",
            [r for r in found if r["elements"] == TINY],
            "tensors",
            "ns for each tensor",
            1e3,
        ),
    ):
        if not chosen:
            continue
        figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
        axes = figure.subplots()
        lines: dict[str, dict[int, float]] = {}
        for row in chosen:
            divisor = row["tensors"] / scale
            lines.setdefault(row["peer"], {})[row[across]] = row["peer_us"] / divisor
            own = lines.setdefault(f"roofstep on {row['arrays']}", {})
            own[row[across]] = min(own.get(row[across], float("inf")), row["own_us"] / divisor)
        for line, points in lines.items():
            ours = line.startswith("roofstep")
            axes.plot(
                *zip(*sorted(points.items()), strict=True), "o-" if ours else ".--", label=line
            )
        axes.set(xscale="log", yscale="log", xlabel=across, ylabel=label, title="AdamW step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        figure.savefig(directory / name)
        names.append(name)
    return names
