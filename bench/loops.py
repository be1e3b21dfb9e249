"""In a real loop: forward, backward and step of networks of torch.

Blocks of iterations with torch's fused AdamW, its foreach AdamW, roofstep's AdamW, and none of them
take turns in one process, on one network: they move the same parameters and see the same gradients,
and only their states are their own. Forward and backward are timed apart from the step. In the
place of a step there is also a streaming loop over other memory, as much as AdamW's: any step
drives the framework's arrays out of the caches, and this shows by how much no step could do better.
A block's figure is the median of its iterations without the first, which find the caches as the
block before left them; a ratio is that of two blocks of one round.
"""

from __future__ import annotations

import functools
import importlib.util
import statistics
import time
from collections.abc import Iterable
from typing import Any

import roofstep
from bench.case import Bar, Item, Options, Row
from roofstep.timing import Work, quartiles
from roofstep.traffic import CASES, Roof

MOST = 1.02
NETWORKS = ("perceptron", "transformer")
ITERATIONS, FIRST = 15, 3  # of a block; those that do not count
BUDGET = 30  # seconds for a network, for each second that is given to a comparison
LEAST, MOST_ROUNDS = 2, 201

OWN, FUSED, FOREACH = "roofstep", "torch fused", "torch foreach"
NONE, STREAM = "no step", "streaming loop"
LEARNING_RATE = 1e-4
Block = tuple[float, float]  # seconds of forward and backward, and of the step


def plan(options: Options) -> list[Item]:
    """A network each."""
    if "torch" not in (options.peers or ("torch",)):
        return []
    if "AdamW" not in (options.optimizers or ("AdamW",)):
        return []
    names = [name for name in NETWORKS if name in (options.models or NETWORKS)]
    return [Item(name, "torch", {"network": name}) for name in names]


def measure(options: Options, item: Item) -> Iterable[Row]:
    """A row for each optimizer, for the streaming loop, and for nothing."""
    if importlib.util.find_spec("torch") is None:
        yield {"item": item.name, "note": "loops: not measured, torch is not installed"}
        return
    import torch

    from bench import networks

    torch.manual_seed(0)
    model, loss = getattr(networks, item.arguments["network"])()
    parameters = list(model.parameters())
    size = sum(parameter.numel() for parameter in parameters)
    roof = Roof(size, [CASES["AdamW"]])
    steps: dict[str, Work] = {
        NONE: lambda: None,
        STREAM: functools.partial(roof.stream, CASES["AdamW"].passes),
        FUSED: torch.optim.AdamW(parameters, LEARNING_RATE, fused=True).step,
        FOREACH: torch.optim.AdamW(parameters, LEARNING_RATE, foreach=True).step,
        OWN: roofstep.AdamW(LEARNING_RATE, parameters=parameters).step,
    }

    def block(step: Work) -> Block:
        times = [iteration(step) for _ in range(ITERATIONS)][FIRST:]
        passes, updates = zip(*times, strict=True)
        return statistics.median(passes), statistics.median(updates)

    def iteration(step: Work) -> Block:
        model.zero_grad(set_to_none=True)
        begin = time.perf_counter()
        loss().backward()
        middle = time.perf_counter()
        step()
        return middle - begin, time.perf_counter() - middle

    rounds: list[dict[str, Block]] = []
    names = list(steps)
    for name in names:
        block(steps[name])
    end = time.perf_counter() + BUDGET * options.seconds
    while len(rounds) < LEAST or (time.perf_counter() < end and len(rounds) < MOST_ROUNDS):
        first = len(rounds) % len(names)
        order = [*names[first:], *names[:first]]
        rounds.append({name: block(steps[name]) for name in order})

    about = {"network": item.name, "parameters": size, "tensors": len(parameters)}
    for name in names:
        yield about | row_of(name, rounds)


def row_of(name: str, rounds: list[dict[str, Block]]) -> Row:
    """Medians of one, and its ratios to others, round by round."""
    passes, updates = (statistics.median(one[name][k] for one in rounds) for k in range(2))
    row: Row = {
        "step": name,
        "forward + backward, us": 1e6 * passes,
        "step, us": 1e6 * updates,
        "share": updates / (passes + updates),
        "rounds": len(rounds),
    }

    def ratio(title: str, k: int, above: str, below: str) -> None:
        low, middle, high = quartiles([one[above][k] / one[below][k] for one in rounds])
        row.update({title: middle, f"{title}, low": low, f"{title}, high": high})

    if name != NONE:
        ratio("step / roofstep's", 1, name, OWN)
        ratio("forward + backward / with no step", 0, name, NONE)
    if name == OWN:
        ratio("forward + backward / with torch's fused", 0, OWN, FUSED)
    return row


def bars(rows: list[Row]) -> Iterable[Bar]:
    """What a step does to the framework's own time: beside torch's step, and beside none."""
    by_name: dict[tuple[str, str], Any] = {
        (row["network"], row["step"]): row for row in rows if "step" in row
    }
    for (network, step), row in by_name.items():
        if step != OWN:
            continue
        beside_none = "forward + backward / with no step"
        others = ", ".join(
            f"with {name} it is {by_name[network, name][beside_none]:.3f}"
            for name in (FUSED, STREAM)
        )
        for title, remark in (
            ("forward + backward / with torch's fused", ""),
            (beside_none, others),
        ):
            yield Bar(
                f"{network}, roofstep's step: {title}",
                MOST,
                row[title],
                row[f"{title}, low"],
                row[f"{title}, high"],
                most=True,
                remark=remark,
            )
