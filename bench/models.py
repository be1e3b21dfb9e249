"""A step of whole models against every peer, on the peer's own parameters.

In the cells: peer time / roofstep time, above 1 where roofstep is faster, median and quartiles.
An empty cell: the peer has no such optimizer, or is named below as not measured. Adamax, Adadelta
and Lion are stepped on BERT-base and GPT-2 only if `--optimizers` names them.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench import versus
from bench.case import Bar, Item, Options, Row
from bench.settings import SETTINGS
from bench.shapes import MODELS, count

# Which peers take seconds for: without these optimizers, unless they are asked for.
LARGE, LEFT_OUT = ("BERT-base", "GPT-2"), ("Adamax", "Adadelta", "Lion")
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
    optimizers = versus.asked(options)
    if options.short and not options.optimizers:
        optimizers = list(SHORT_OPTIMIZERS)
    return [
        Item(
            f"{model}, {optimizer}{', clipped' if clipped else ''}",
            library,
            {"model": model, "optimizer": optimizer, "clipped": clipped},
        )
        for library in versus.libraries(options)
        for model in models
        for optimizer in optimizers
        if options.optimizers or model not in LARGE or optimizer not in LEFT_OUT
        for clipped in (False, True)
    ]


def measure(options: Options, item: Item) -> Iterator[Row]:
    """Each way in which the item's library steps."""
    model, optimizer, clipped = (item.arguments[k] for k in ("model", "optimizer", "clipped"))
    barred = goal(model, optimizer, clipped) is not None
    seconds = options.seconds * (1.0 if barred else 0.3)
    least = 2 if options.short else 7 if barred else 3
    for row in versus.compared(item.part, MODELS[model], optimizer, clipped, seconds, least):
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
    measured.sort(key=lambda row: (list(SETTINGS).index(row["optimizer"]), row["clipped"]))
    parts = []
    for model, shapes in MODELS.items():
        if found := [row for row in measured if row["model"] == model]:
            parts.append(f"**{model}**: {count(shapes)} parameters, {len(shapes)} tensors\n")
            parts.append(versus.table(found, "optimizer", _name) + "\n")
    differing = {f"{r['peer']}, {r['optimizer']}: {r['formula']}" for r in measured}
    if differing := {one for one in differing if not one.endswith(versus.SAME)}:
        parts.append(
            f"Not held to the same weights, for they have other formulas. "
            f"{'; '.join(sorted(differing))}."
        )
    return "\n".join(parts) or "Nothing was measured."


def _name(row: Row) -> str:
    return f"{row['optimizer']}{', clipped' if row['clipped'] else ''}"
