"""Where the gradients of `minimize` and `apply_gradients` come from, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from roofstep.parameter import Parameter
from roofstep.types import Array

Gradients = list[Array | None]


class Directory:
    """The positions of parameters by all that they are called: themselves, their array, their name.

    Args:
        parameters: by name, in the order of the optimizer.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._names = tuple(parameters)
        self._positions: dict[Any, int] = {}
        for i, (name, parameter) in enumerate(parameters.items()):
            self._positions |= {name: i, id(parameter): i, id(parameter.data): i}

    def find(self, which: Any) -> int:
        """The position of one parameter; ValueError if it is not here."""
        position = self._positions.get(which if isinstance(which, str) else id(which))
        if position is None:
            known = ", ".join(self._names[:8]) + (", ..." if len(self._names) > 8 else "")
            raise ValueError(
                f"{which!r} is no parameter of this optimizer; name one of those that it was "
                f"given: {known}"
            )
        return position

    def arrange(self, pairs: Iterable[tuple[Any, Any]]) -> Gradients:
        """A gradient or None for every parameter; refuses two for one."""
        gradients: Gradients = [None] * len(self._names)
        seen = set()
        for which, gradient in pairs:
            position = self.find(which)
            if position in seen:
                raise ValueError(
                    f"parameter {self._names[position]!r} has two gradients; add them up first"
                )
            seen.add(position)
            gradients[position] = gradient
        return gradients


def as_row(argument: str, which: Any) -> list[Any] | None:
    """None, or several parameters or names as a list; TypeError if they are one or none at all."""
    if which is None:
        return None
    one = isinstance(which, (str, Parameter, Mapping)) or hasattr(which, "__array__")
    if one or not isinstance(which, Iterable):
        raise TypeError(
            f"{argument}: expected a list of parameters or names, got a {type(which).__name__}; "
            f"pass [parameter, ...]"
        )
    return list(which)


def as_pairs(pairs: Any, name: str = "params_grads") -> list[tuple[Any, Any]]:
    """The pairs as a list; TypeError if they are none."""
    row = isinstance(pairs, Iterable) and not isinstance(pairs, Mapping)
    found: list[tuple[Any, Any]] = list(pairs) if row else [pairs]
    for pair in found:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(
                f"{name}: expected a list of pairs (parameter, gradient), got a "
                f"{type(pair).__name__} in it; make it [(parameter, gradient), ...]"
            )
    return found


def differentiate(
    loss: Any, parameters: Mapping[str, Parameter], moving: set[int]
) -> tuple[Gradients, list[Parameter]]:
    """The gradients of a loss, and the parameters on which this call has put theirs.

    If the loss fails, what it has put there by then is dropped: it would be used as if it were
    whole. See `roofstep.Optimizer.minimize` for what a loss may be.

    Args:
        loss: a callable, something with ``backward()``, or anything else.
        parameters: all, by name.
        moving: the positions of those that are to be updated.
    """
    row = list(parameters.values())
    before = [p.grad for p in row]

    def changed() -> list[Parameter]:
        return [p for p, old in zip(row, before, strict=True) if p.has_other_grad(old)]

    try:
        if callable(loss):
            loss = loss()
            if isinstance(loss, tuple):
                return _returned(loss, parameters), changed()
            if any(p.grad is not None for p in row) or not hasattr(loss, "backward"):
                return [p.lasting_grad for p in row], row
        if hasattr(loss, "backward") and all(row[i].grad is None for i in moving):
            loss.backward()
            return [p.lasting_grad for p in row], row
        return [p.lasting_grad for p in row], []
    except BaseException:
        for parameter in changed():
            parameter.grad = None
        raise


def _returned(result: tuple[Any, ...], parameters: Mapping[str, Parameter]) -> Gradients:
    if len(result) != 2:
        raise ValueError(
            f"loss(): expected loss or (loss, gradients), got a tuple of {len(result)}; "
            f"return the gradients as one list"
        )
    gradients = result[1]
    if isinstance(gradients, Mapping):
        return Directory(parameters).arrange(gradients.items())
    if isinstance(gradients, (list, tuple)) and len(gradients) == len(parameters):
        return list(gradients)
    got = type(gradients).__name__
    if isinstance(gradients, (list, tuple)):
        got += f" of {len(gradients)}"
    raise ValueError(
        f"gradients of loss(): expected a list of {len(parameters)}, one or None for each "
        f"parameter, or a dict by name, got a {got}; return (loss, [gradient, ...])"
    )
