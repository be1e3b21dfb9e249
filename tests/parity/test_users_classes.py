"""Clips and regularizers of a user's own: the same source over the base class of either library."""

from __future__ import annotations

from typing import Any

import pytest

from harness import BARS, Library, Ours, Paddles, agree, distance, last
from table import FAMILIES


def halving(library: Library) -> Any:
    """A clip that halves the gradients of those who want to be clipped, and loses some others."""

    class Halving(library.ClipGradBase):  # type: ignore[misc, name-defined]
        def _dygraph_clip(self, params_grads: Any) -> Any:
            clipped = [(p, g * 0.5 if p.need_clip else g) for p, g in params_grads]
            return [(p, g) for p, g in clipped if p.name != "row"]

    return Halving()


def towards_one(library: Library) -> Any:
    """A decay towards 1 and not 0, and less of it where the gradient is large."""

    class TowardsOne(library.WeightDecayRegularizer):  # type: ignore[misc, name-defined]
        def __call__(self, param: Any, grad: Any, block: Any = None) -> Any:
            return (param.data - 1) * 0.25 - grad * 0.125

    return TowardsOne()


def run(side: type[Ours | Paddles], cls: str, kind: str, dtype: str) -> Any:
    """With the clip, the regularizer for all or for one parameter, or everything."""
    library = side.library
    settings = dict(FAMILIES[cls].base)
    attributes: dict[str, Any] = {"matrix": {"need_clip": False}}
    if "clip" in kind:
        settings["grad_clip"] = halving(library)
    if "decay" in kind:
        settings["weight_decay"] = towards_one(library)
    if "attribute" in kind:
        attributes["big"] = {"regularizer": towards_one(library)}
    return side(cls, settings, dtype, FAMILIES[cls].names, attributes)


@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize(
    ("cls", "kind"),
    [
        (cls, kind)
        for cls, family in FAMILIES.items()
        for kind in ("clip", "decay", "clip and decay", "attribute", "clip and attribute")
        if "decay" not in kind or ("weight_decay" in family.others and cls != "AdamW")
    ],
)
def test_users_class(cls: str, kind: str, dtype: str) -> None:
    result = agree(run(Ours, cls, kind, dtype), run(Paddles, cls, kind, dtype))
    plain = last(run(Ours, cls, "plain", dtype))
    assert distance(result, plain) > (0 if cls == "Rprop" else 1e-4)
