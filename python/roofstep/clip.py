"""Gradient clipping, done inside the pass that updates: the gradients are never written."""

from __future__ import annotations

import math

from roofstep import _core, checks


class ClipGradBase:
    """What `Optimizer` asks of a clip: bounds for each element, or a norm with a limit.

    The settings of a clip cannot be changed, since a step would not look at them again; put another
    clip in its place.
    """

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value of an element."""
        return (-math.inf, math.inf)

    def norm(self, shared: dict[ClipGradBase, _core.Norm]) -> _core.Norm | None:
        """The norm that the next parameter's gradient counts in; ``shared`` holds those so far."""
        return None


class ClipGradByValue(ClipGradBase):
    """Limits each element of a gradient to ``[min, max]``; NaN stays NaN.

    Args:
        max: the upper bound.
        min: the lower bound, by default ``-max``, for which ``max`` must be above 0.

    Raises:
        TypeError: a bound is no number.
        ValueError: ``min`` is above ``max``.

    Example:
        >>> import roofstep
        >>> roofstep.ClipGradByValue(1.0)
        ClipGradByValue(max=1.0, min=-1.0)
    """

    def __init__(self, max: float, min: float | None = None) -> None:
        high = checks.real("max", max, "(0, inf)" if min is None else "(-inf, inf)")
        low = checks.real("min", min) if min is not None else -high
        if low > high:
            raise ValueError(f"min: expected at most max={high}, got {low}; swap the two")
        self._bounds = (low, high)

    @property
    def bounds(self) -> tuple[float, float]:
        """(min, max)."""
        return self._bounds

    @property
    def max(self) -> float:
        """The upper bound."""
        return self._bounds[1]

    @property
    def min(self) -> float:
        """The lower bound."""
        return self._bounds[0]

    def __repr__(self) -> str:
        return f"ClipGradByValue(max={self.max}, min={self.min})"


class ClipGradByNorm(ClipGradBase):
    """Scales each parameter's gradient by itself to an L2 norm of at most ``clip_norm``.

    ``g * clip_norm / norm`` where ``norm = ||g|| > clip_norm``, else ``g``. The factor is computed
    in float64. A NaN makes the whole gradient NaN.

    Args:
        clip_norm: above 0; infinity measures and never clips.

    Raises:
        TypeError: ``clip_norm`` is no number.
        ValueError: ``clip_norm`` is not above 0.

    Example:
        >>> import roofstep
        >>> roofstep.ClipGradByNorm(2)
        ClipGradByNorm(clip_norm=2.0)
    """

    def __init__(self, clip_norm: float) -> None:
        self._clip_norm = checks.real("clip_norm", clip_norm, "(0, inf]")

    @property
    def clip_norm(self) -> float:
        """The greatest norm."""
        return self._clip_norm

    def norm(self, shared: dict[ClipGradBase, _core.Norm]) -> _core.Norm:
        """A norm of its own for every gradient."""
        return _core.Norm(self.clip_norm)

    def __repr__(self) -> str:
        return f"ClipGradByNorm(clip_norm={self.clip_norm})"


class ClipGradByGlobalNorm(ClipGradBase):
    """Scales all gradients by one factor, to an L2 norm over all of them of at most ``clip_norm``.

    ``g * clip_norm / norm`` where ``norm = sqrt(sum ||g||^2) > clip_norm``, else ``g``; no epsilon.
    (Pascanu, Mikolov & Bengio, On the difficulty of training recurrent neural networks, 2013.)
    Given to an optimizer it is one norm over all groups that have no clip of their own; one object
    given to several groups is one norm over these. `Optimizer.last_grad_norm` tells the norm.

    Args:
        clip_norm: above 0; infinity measures and never clips.
        group_name: a label, shown in the repr; Paddle reads it in static graphs alone.
        auto_skip_clip: either value gives the same result: a gradient below the limit is
            multiplied by exactly 1.

    Raises:
        TypeError: an argument is of another type.
        ValueError: ``clip_norm`` is not above 0.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.zeros(2))
        >>> opt = roofstep.SGD(1.0, [w], grad_clip=roofstep.ClipGradByGlobalNorm(1.0))
        >>> w.grad = np.array([3.0, 4.0])
        >>> opt.step()
        >>> w.data, opt.last_grad_norm
        (array([-0.6, -0.8]), 5.0)
    """

    def __init__(
        self, clip_norm: float, group_name: str = "default_group", auto_skip_clip: bool = False
    ) -> None:
        self._clip_norm = checks.real("clip_norm", clip_norm, "(0, inf]")
        self.group_name = group_name
        self.auto_skip_clip = checks.flag("auto_skip_clip", auto_skip_clip)

    @property
    def clip_norm(self) -> float:
        """The greatest norm."""
        return self._clip_norm

    def norm(self, shared: dict[ClipGradBase, _core.Norm]) -> _core.Norm:
        """The one norm of this object."""
        return shared.setdefault(self, _core.Norm(self.clip_norm))

    def __repr__(self) -> str:
        return f"ClipGradByGlobalNorm(clip_norm={self.clip_norm}, group_name={self.group_name!r})"


def as_clip(name: str, value: object) -> ClipGradBase | None:
    """None or a clip as it is."""
    if value is None or isinstance(value, ClipGradBase):
        return value
    raise TypeError(
        f"{name}: expected None, ClipGradByGlobalNorm, ClipGradByNorm or ClipGradByValue, got "
        f"{value!r}; a global norm of at most 1 is roofstep.ClipGradByGlobalNorm(1.0)"
    )
