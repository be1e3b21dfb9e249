"""Every optimizer against Paddle's: its options, decay, clips, groups, and the default settings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from harness import BARS, Made, Ours, Paddles, agree, both, close, distance, last
from table import FAMILIES, Family

DTYPES = tuple(BARS)

DECAYS: dict[str, Any] = {
    "no decay": {},
    "number": {"weight_decay": 0.125},
    "L1": {"weight_decay": Made("L1Decay", 0.125)},
    "L2": {"weight_decay": Made("L2Decay", 0.25)},
}
CLIPS = {
    "no clip": None,
    "value": Made("ClipGradByValue", 0.75),
    "two values": Made("ClipGradByValue", max=0.5, min=-0.25),
    "norm": Made("ClipGradByNorm", 1.5),
    "global norm": Made("ClipGradByGlobalNorm", 2.0),
    "global norm that skips": Made("ClipGradByGlobalNorm", 1000.0, auto_skip_clip=True),
}
ATTRIBUTES = {
    "scalar": {"learning_rate": 0.5},
    "single": {"regularizer": Made("L2Decay", 0.5)},
    "row": {"regularizer": Made("L1Decay", 0.25), "learning_rate": 0.25},
    "matrix": {"need_clip": False},
}
# Settings that are the optimizer's alone in Paddle.
UNGROUPED = ("amsgrad", "apply_decay_param_fun", "always_adapt")
FROZEN = {"matrix": {"trainable": False}}


def decays(cls: str) -> dict[str, Any]:
    """Those that Paddle's class takes; in AdamW it is a number."""
    if cls == "AdamW":
        return {"no decay": {"weight_decay": 0.0}, "number": {"weight_decay": 0.125}}
    if "weight_decay" not in FAMILIES[cls].others:
        return {"no decay": {}}
    return DECAYS


def groups(
    family: Family, names: Sequence[str], clip: Any, decay: dict[str, Any]
) -> list[tuple[list[str], dict[str, Any]]]:
    """Three groups: one with all it can set, one with its own clip, one with the optimizer's."""
    parts = [[n for n in names if n in some] for some in (("single", "big"), ("row",))]
    rest = [n for n in names if n not in sum(parts, [])]
    own = {key: value for key, value in family.options.items() if key not in UNGROUPED}
    if "weight_decay" in family.others:
        kind = decay.get("weight_decay")
        own["weight_decay"] = Made("L1Decay", 0.25) if kind is DECAYS["L1"]["weight_decay"] else 0.25
    # Each has a norm of its own, as in Paddle.
    return [
        (parts[0], {**own, "learning_rate": 0.5, "grad_clip": clip}),
        (parts[1], {"grad_clip": Made("ClipGradByValue", 0.5)}),
        (rest, {"grad_clip": clip, "learning_rate": 2}),
    ]


def held(ours: Ours, paddles: Paddles, family: Family, settings: dict[str, Any]) -> None:
    """Compares all states: arrays with arrays, Paddle's running numbers with their formulas."""
    own, theirs = ours.states(), paddles.states()
    counts = {name: int(own[name, "step"]) for name, s in own if s == "step"}
    assert counts.keys() == {name for name, _ in theirs} or not theirs
    for key, expected in theirs.items():
        name, state = key
        value: Any
        if state in family.numbers:
            value = np.full(expected.shape, family.numbers[state](settings, counts[name]))
        elif key in own:
            value = np.broadcast_to(own[key], expected.shape)
        else:
            assert (cls_of(family), state) == ("RMSProp", "mean_grad")  # kept, and not used
            value = np.zeros(expected.shape)
        close({key: value}, {key: expected}, ours.dtype, "as a state")
    assert {s for _, s in own} <= {s for _, s in theirs} | {"step"}


def cls_of(family: Family) -> str:
    return next(cls for cls, one in FAMILIES.items() if one is family)


def combinations(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every subset of the options."""
    for size in range(len(options) + 1):
        for chosen in itertools.combinations(options, size):
            yield {key: options[key] for key in chosen}


OPTIONS = [
    pytest.param(cls, options, id=f"{cls}-{'-'.join(options) or 'base'}")
    for cls, family in FAMILIES.items()
    for options in combinations(family.options)
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cls", "options"), OPTIONS)
def test_options(cls: str, options: dict[str, Any], dtype: str) -> None:
    """Every combination of a rule's own settings; at the end, all states."""
    family = FAMILIES[cls]
    settings = family.base | options
    ours, paddles = both(cls, settings, dtype, family.names)
    agree(ours, paddles)
    held(ours, paddles, family, settings)


PRODUCT = [
    pytest.param(cls, decay, CLIPS[clip], layout, dtype, id=f"{cls}-{name}-{clip}-{layout}-{dtype}")
    for cls in FAMILIES
    for name, decay in decays(cls).items()
    for clip in CLIPS
    for layout in ("flat", "attributes", "groups")
    for dtype in DTYPES
    if (clip, dtype) != ("norm", "float64")  # see norm-clipping-in-float64
]


@pytest.mark.parametrize(("cls", "decay", "clip", "layout", "dtype"), PRODUCT)
def test_decay_clip_groups(
    cls: str, decay: dict[str, Any], clip: Any, layout: str, dtype: str
) -> None:
    """Every kind of decay under every clip, for parameters alike, of their own, and in groups."""
    family = FAMILIES[cls]
    names = family.names
    if clip is CLIPS["global norm"]:
        names = tuple(n for n in names if n in family.names_under_global_norm)
    ours, paddles = both(
        cls,
        {**family.base, **decay, "grad_clip": clip},
        dtype,
        names,
        ATTRIBUTES if layout == "attributes" else None,
        groups(family, names, clip, decay) if layout == "groups" else None,
    )
    agree(ours, paddles)
