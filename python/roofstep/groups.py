"""Groups of parameters: reading `parameters=`, and groups by depth for layer-wise rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from roofstep import _core, checks, libraries, tensors
from roofstep.parameter import Parameter, Parameters, Steppable
from roofstep.types import Group, Number


def layerwise_lr_decay(
    layers: Iterable[Steppable | Group | Parameters], decay: Number
) -> list[dict[str, Any]]:
    """Groups whose learning rate falls by a factor with each layer, from the output to the input.

    Layer i of n gets the factor ``decay ** (n - 1 - i)`` on the optimizer's learning rate, so that
    a pretrained network is fine-tuned most where it is most specific. (Howard & Ruder, Universal
    language model fine-tuning for text classification, 2018, section 3.2, with 1 / 2.6; Clark et
    al., ELECTRA: pre-training text encoders as discriminators rather than generators, 2020, with
    0.8 and 0.9.)

    Args:
        layers: from input to output: each a parameter, a list of parameters, or a group (a dict)
            or a list of groups, whose own ``learning_rate`` is multiplied. Nothing of it is
            changed.
        decay: the factor from a layer to the one before, in (0, 1].

    Returns:
        Groups for ``parameters=``, new dicts in the order of the layers.

    Raises:
        TypeError: ``layers`` or one of them is of another kind, or ``decay`` is no number.
        ValueError: ``decay`` or a ``learning_rate`` is out of range, a layer is empty, or a group
            has no ``params``.

    Example:
        >>> import numpy as np, roofstep
        >>> embedding, hidden, head = (roofstep.Parameter(np.zeros(n)) for n in (8, 4, 2))
        >>> layers = [embedding, {"params": [hidden], "weight_decay": 0.1}, head]
        >>> groups = roofstep.layerwise_lr_decay(layers, decay=0.5)
        >>> [group["learning_rate"] for group in groups]
        [0.25, 0.5, 1.0]
        >>> optimizer = roofstep.AdamW(0.001, parameters=groups)
    """
    decay = checks.real("decay", decay, "(0, 1]")
    row = _row("layers", layers)
    found = []
    for i, layer in enumerate(row):
        one = isinstance(layer, (Parameter, Mapping)) or hasattr(layer, "__array__")
        for group in read([layer] if one else layer, f"layers[{i}]"):
            own = checks.non_negative(
                f"learning_rate of a group in layers[{i}]", group.get("learning_rate", 1.0)
            )
            found.append({**group, "learning_rate": own * decay ** (len(row) - 1 - i)})
    return found


def read(parameters: Parameters, what: str = "parameters") -> list[dict[str, Any]]:
    """The groups, each a new dict whose ``params`` is a tuple of `Parameter`.

    Args:
        parameters: a row of parameters, or of groups.
        what: their name in messages.

    Raises:
        TypeError: no row at all, a row without order, or elements that are neither.
        ValueError: an empty row, or a group without ``params``.
    """
    items = _row(what, parameters)
    if not any(isinstance(item, Mapping) for item in items):
        return [{"params": tuple(_as_parameter(what, item) for item in items)}]
    groups = []
    for item in items:
        if not isinstance(item, Mapping):
            raise TypeError(
                f"{what}: expected groups (dicts) alone or parameters alone, got both; "
                f"put {_kind(item)} into a group's 'params'"
            )
        if "params" not in item:
            raise ValueError(
                f"{what}: a group with the keys {list(item)} has no 'params'; "
                f"name its parameters there"
            )
        params = item["params"]
        alone = isinstance(params, Parameter) or _core.is_tensor(params)
        if alone or libraries.static_graphs([params]) is not None:
            params = [params]
        row = _row("'params' of a group", params, "parameters")
        groups.append({**item, "params": tuple(_as_parameter(what, item) for item in row)})
    return groups


def _row(what: str, items: Any, of: str = "parameters, or of groups (dicts)") -> list[Any]:
    remedy = f"pass a list or tuple of {of}"
    if isinstance(items, Mapping):
        remedy += "; of a pytree for JAX, roofstep.jax.parameters(tree)"
    if isinstance(items, (Parameter, Mapping, str, bytes)) or hasattr(items, "__array__"):
        raise TypeError(f"{what}: expected a list or tuple, got {_kind(items)}; {remedy}")
    if isinstance(items, (set, frozenset)) or not isinstance(items, Iterable):
        raise TypeError(f"{what}: expected something with an order, got {_kind(items)}; {remedy}")
    row = list(items)
    if not row:
        raise ValueError(f"{what}: expected at least one parameter, got none; {remedy}")
    return row


def _as_parameter(what: str, item: Any) -> Parameter:
    if isinstance(item, Parameter):
        return item
    if isinstance(item, np.ndarray) or type(item).__module__.startswith("jax"):
        return Parameter(item)  # which refuses JAX's with the remedy
    if _core.is_tensor(item):
        return tensors.as_parameter(item)
    if (static := libraries.static_graphs([item])) is not None:
        made: Parameter = static.as_parameter(item)
        return made
    raise TypeError(
        f"{what}: expected roofstep.Parameter, NumPy arrays, or tensors of torch >= 2.10 or Paddle "
        f">= 3.3, got {_kind(item)}; wrap its memory, as in roofstep.Parameter(array)"
    )


def _kind(item: Any) -> str:
    return f"a {type(item).__name__}"
