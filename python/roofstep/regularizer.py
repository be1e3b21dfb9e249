"""Weight decay that is added to the gradient."""

from __future__ import annotations

from roofstep import checks


class WeightDecayRegularizer:
    """What is added to a gradient to keep weights small: the base of `L1Decay` and `L2Decay`.

    Args:
        coeff: the factor of the term; a finite number.
    """

    def __init__(self, coeff: float = 0.0) -> None:
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

    def __repr__(self) -> str:
        return f"{type(self).__name__}(coeff={self.coeff})"


class L1Decay(WeightDecayRegularizer):
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


class L2Decay(WeightDecayRegularizer):
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
    """

    @property
    def l2(self) -> float:
        """The coefficient."""
        return self.coeff


def as_regularizer(name: str, value: object) -> WeightDecayRegularizer | None:
    """None, an `L1Decay` or `L2Decay` as it is, or a number as an `L2Decay`."""
    if value is None or isinstance(value, (L1Decay, L2Decay)):
        return value
    try:
        return L2Decay(checks.real(name, value))
    except TypeError:
        raise TypeError(
            f"{name}: expected None, a number, L1Decay or L2Decay, got {value!r}; "
            f"a number c means L2Decay(c)"
        ) from None
