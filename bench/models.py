"""A step of whole models against every peer, on the peer's own parameters.

In the cells: peer time / roofstep time, above 1 where roofstep is faster, median and quartiles.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench import peers
from bench.case import Bar, Item, Options, Row
from bench.report import cell
from bench.report import table as plain
from bench.settings import SETTINGS
from bench.shapes import MODELS, count
from bench.versus import SAME, asked, libraries, versus

SHORT_MODELS, SHORT_OPTIMIZERS = ("MLP",), ("SGD", "AdamW")

# What of the models is held to a bar: optimizers, models, the goals unclipped and clipped.
NOT_FUSED = ("RMSProp", "NAdam", "Lamb", "Adamax", "Adadelta")  # by torch
BARS: list[tuple[tuple[str, ...], tuple[str, ...], float, float]] = [
    (("AdamW",), ("GPT-2", "BERT-base"), 1.10, 1.30),
    (("AdamW",), ("ResNet-50",), 1.10, 1.55),
    (("AdamW",), ("MLP",), 1.7, 3.2),
    (("AdamW",), ("1000 x 64",), 18, 30),
    (NOT_FUSED, ("ResNet-50",), 2, 2.5),
]


def plan(options: Options) -> list[Item]:
    """Every model with every optimizer, for each library that is asked for."""
    unknown = set(options.models) - set(MODELS)
    if unknown:
        raise SystemExit(
            f"--models: {', '.join(sorted(unknown))}: no such model; known are {', '.join(MODELS)}"
        )
    models = options.models or (SHORT_MODELS if options.short else tuple(MODELS))
    optimizers = asked(options)
    if options.short and not options.optimizers:
        optimizers = list(SHORT_OPTIMIZERS)
    return [
        Item(
            f"{model}, {optimizer}{', clipped' if clipped else ''}",
            library,
            {"model": model, "optimizer": optimizer, "clipped": clipped},
        )
        for library in libraries(options)
        for model in models
        for optimizer in optimizers
        for clipped in (False, True)
    ]


def measure(options: Options, item: Item) -> Iterator[Row]:
    """Each way in which the item's library steps."""
    model, optimizer, clipped = (item.arguments[k] for k in ("model", "optimizer", "clipped"))
    barred = goal(model, optimizer, clipped) is not None
    seconds = options.seconds * (1.0 if barred else 0.3)
    least = 2 if options.short else 7 if barred else 3
    for row in versus(item.part, MODELS[model], optimizer, clipped, seconds, least):
        yield row if "note" in row else {"model": model, **row}


def goal(model: str, optimizer: str, clipped: bool) -> float | None:
    """The least ratio that this is held to, None for nothing."""
    for optimizers, models, plain_goal, clipped_goal in BARS:
        if optimizer in optimizers and model in models:
            return clipped_goal if clipped else plain_goal
    return None


def bars(rows: list[Row]) -> Iterator[Bar]:
    """For each, the ratio of the best peer."""
    for model in MODELS:
        for optimizer in SETTINGS:
            for clipped in (False, True):
                least = goal(model, optimizer, clipped)
                found = [row for row in rows if _key(row) == (model, optimizer, clipped)]
                if least is None or not found:
                    continue
                best = min(found, key=lambda row: row["ratio"])
                yield Bar(
                    f"{optimizer}, {model}{', clipped' if clipped else ''}: best peer / roofstep",
                    least,
                    best["ratio"],
                    best["low"],
                    best["high"],
                    remark=best["peer"],
                )


def _key(row: Row) -> tuple[str | None, str | None, bool | None]:
    return row.get("model"), row.get("optimizer"), row.get("clipped")


def table(rows: list[Row]) -> str:
    """One for each model: a line for each optimizer, a column for each peer."""
    measured = [row for row in rows if "ratio" in row]
    variants = {
        variant: name for name in peers.LIBRARIES for variant in peers.library(name).VARIANTS
    }
    columns = [v for v in variants if any(row["peer"] == v for row in measured)]
    arrays = list(dict.fromkeys(row["arrays"] for row in measured))
    parts = []
    for model in MODELS:
        lines = []
        for optimizer in SETTINGS:
            for clipped in (False, True):
                found = [row for row in measured if _key(row) == (model, optimizer, clipped)]
                if not found:
                    continue
                line: Row = {"optimizer": f"{optimizer}{', clipped' if clipped else ''}"}
                for kind in arrays:
                    own = [row["own_us"] for row in found if row["arrays"] == kind]
                    line[f"roofstep on {kind}, us"] = min(own) if own else None
                for variant in columns:
                    ratios = [row for row in found if row["peer"] == variant]
                    has = optimizer in peers.library(variants[variant]).VARIANTS[variant]
                    line[variant] = _ratio(ratios[0]) if ratios else "" if has else "has none"
                lines.append(line)
        if lines:
            shapes = MODELS[model]
            parts.append(f"**{model}**: {count(shapes)} parameters, {len(shapes)} tensors\n")
            parts.append(plain(lines) + "\n")
    others = {
        f"{r['peer']}, {r['optimizer']}: {r['formula']}" for r in measured if r["formula"] != SAME
    }
    if others:
        parts.append(
            f"Of another formula, so not held to the same weights: {'; '.join(sorted(others))}."
        )
    return "\n".join(parts) or "Nothing was measured."


def _ratio(row: Row) -> str:
    return f"{cell(row['ratio'])} ({cell(row['low'])} to {cell(row['high'])})"
