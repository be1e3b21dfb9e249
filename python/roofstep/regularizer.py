"""Weight decay that is added to the gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from roofstep import _core, checks, libraries
from roofstep.types import Array, Number, Regularizer

if TYPE_CHECKING:
    from roofstep.parameter import Parameter


class WeightDecayRegularizer(ABC):
    """What every regularizer is: called with a parameter, it returns a term for its gradient.

    For one of your own override ``__call__(param, grad, block=None)``: ``param.data`` is the array
    or tensor of the `Parameter`, ``grad`` its gradient after clipping; neither must be written. The
    term has their shape and dtype and is added to the gradient. Parameters with such a regularizer
    take longer: their gradients are made before the one pass.

    Raises:
        TypeError: ``__call__`` is not overridden.

    Example:
        >>> import numpy as np, roofstep
        >>> class DecayTowardsOne(roofstep.WeightDecayRegularizer):
        ...     def __call__(self, param, grad, block=None):
        ...         return 0.5 * (param.data - 1)
        >>> w = roofstep.Parameter(np.array([1.0, 3.0]))
        >>> opt = roofstep.SGD(0.5, [w], weight_decay=DecayTowardsOne())
        >>> w.grad = np.zeros(2)
        >>> opt.step()
        >>> w.data
        array([1. , 2.5])
    """

    @abstractmethod
    def __call__(self, param: Parameter, grad: Array | None, block: None = None) -> Array:
        """The term that is added to the gradient.

        Args:
            param: the parameter.
            grad: its gradient, after clipping.
            block: of static graphs; None.
        """


# What is taken for weight decay.
Decay: TypeAlias = Number | WeightDecayRegularizer | Regularizer | None


class FusedDecay(WeightDecayRegularizer):
    """A regularizer that a step does inside its pass.

    Args:
        coeff: the factor of the term; a finite number.
    """

    def __init__(self, coeff: Number = 0.0) -> None:
        self._coeff = checks.real("coeff", coeff)

    @property
    def coeff(self) -> float:
        """The factor; it cannot be changed, since a step would not look at it again."""
        return self._coeff

    @property
    def l1(self) -> float:
        """The factor of sign(parameter) in what is added to the gradient."""
        return 0.0

    @property
    def l2(self) -> float:
        """The factor of the parameter in what is added to the gradient."""
        return 0.0

    def __call__(self, param: Parameter, grad: Array | None = None, block: None = None) -> Array:
        """The term that is added to the gradient, a new array."""
        checks.only_none(block=block)
        _core.check_parameter(param.data, getattr(param, "name", None) or "param")
        # A factor of 0 takes the sign: an infinite parameter then has no NaN as its term.
        values = param.array if self.l2 else np.sign(param.array)
        factor = checks.rounded("coeff", self.l1 + self.l2, values.dtype)
        with np.errstate(all="ignore"):
            term: Array = param.as_own(np.asarray(factor * values))
        return term

    def __repr__(self) -> str:
        return f"{type(self).__name__}(coeff={self.coeff})"


def decay_of(group: Mapping[str, Any], parameter: Parameter) -> Any:
    """The parameter's own regularizer, which wins, or the weight decay of its group."""
    own = parameter.regularizer
    return group.get("weight_decay") if own is None else own


def is_fused(regularizer: object) -> bool:
    """Whether a step can do it inside its pass: a subclass may do otherwise than its base."""
    return isinstance(regularizer, FusedDecay) and type(regularizer).__call__ is FusedDecay.__call__


class L1Decay(FusedDecay):
    """Adds ``coeff * sign(parameter)`` to the gradient, with ``sign(0) = 0``.

    Args:
        coeff: the factor, default 0.0; a finite number.

    Raises:
        TypeError: ``coeff`` is no number.
        ValueError: ``coeff`` is not finite.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([2.0, -2.0]))
        >>> opt = roofstep.SGD(0.5, [w], weight_decay=roofstep.L1Decay(0.25))
        >>> w.grad = np.zeros(2)
        >>> opt.step()
        >>> w.data
        array([ 1.875, -1.875])
    """

    @property
    def l1(self) -> float:
        """The coefficient."""
        return self.coeff


class L2Decay(FusedDecay):
    """Adds ``coeff * parameter`` to the gradient (no factor 1/2); a plain float means the same.

    Args:
        coeff: the factor, default 0.0; a finite number.

    Raises:
        TypeError: ``coeff`` is no number.
        ValueError: ``coeff`` is not finite.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.array([2.0, -2.0]))
        >>> opt = roofstep.SGD(0.5, [w], weight_decay=roofstep.L2Decay(0.25))
        >>> w.grad = np.zeros(2)
        >>> opt.step()
        >>> w.data
        array([ 1.75, -1.75])
        >>> roofstep.L2Decay(0.25)(w, w.grad)
        array([ 0.4375, -0.4375])
    """

    @property
    def l2(self) -> float:
        """The coefficient."""
        return self.coeff


def as_regularizer(name: str, value: object) -> WeightDecayRegularizer | None:
    """None, a regularizer as it is, one of Paddle's as ours, or a number as an `L2Decay`."""
    if value is None or isinstance(value, WeightDecayRegularizer):
        return value
    if (theirs := libraries.settings(value)) is not None:
        found: WeightDecayRegularizer = theirs.as_regularizer(name, value)
        return found
    try:
        return L2Decay(checks.real(name, value))
    except TypeError:
        raise TypeError(
            f"{name}: expected None, a number, L1Decay, L2Decay or one of a subclass of "
            f"WeightDecayRegularizer, got {value!r}; a number c means L2Decay(c)"
        ) from None
