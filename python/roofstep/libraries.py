"""What is of another library is known by its class; the library's package is imported then."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def static_graphs(values: Any) -> Any:
    """`roofstep.paddle.static` if one of these is a value of a static program, else None."""
    if (paddle := sys.modules.get("paddle")) is None:
        return None
    # Not by isinstance: in dynamic mode Paddle's tensors pass for values of its former programs.
    kinds = {paddle.pir.Value, paddle.base.framework.Variable}
    if all(kinds.isdisjoint(type(value).__mro__) for value in values):
        return None
    return importlib.import_module("roofstep.paddle.static")


def settings(value: object) -> Any:
    """`roofstep.paddle.settings` if this is a clip or regularizer of Paddle's, else None."""
    if (paddle := sys.modules.get("paddle")) is None:
        return None
    kinds = (paddle.nn.clip.ClipGradBase, paddle.regularizer.WeightDecayRegularizer)
    return importlib.import_module("roofstep.paddle.settings") if isinstance(value, kinds) else None
