"""Gradient clipping: the built-in clips, which a step does inside its pass, and the user's base."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import numpy as np

from roofstep import _core, checks, libraries, threads
from roofstep.gradients import as_pairs
from roofstep.parameter import Gradient, Pair, Parameter
from roofstep.types import Array, Number


class ClipGradBase(ABC):
    """What every clip is: called with pairs of parameter and gradient, it returns new pairs.

    For a clip of your own override ``_dygraph_clip(params_grads)`` and return pairs of the same
    parameters; one that is left out, or has None, is not updated. Gradients have the shape and
    dtype of ``parameter.data``, are tensors where this is one, and must not be written. The step
    calls the clip once, with all the parameters that have it and a gradient, over all groups, in
    the order of `Optimizer.parameters`; also with those whose ``need_clip`` is False, which it
    should leave as they are. Parameters with such a clip take longer: their gradients are made
    before the one pass.

    Raises:
        TypeError: ``_dygraph_clip`` is not overridden.

    Example:
        >>> import numpy as np, roofstep
        >>> class ClipBySign(roofstep.ClipGradBase):
        ...     def _dygraph_clip(self, params_grads):
        ...         return [(p, np.sign(g) if p.need_clip else g) for p, g in params_grads]
        >>> w = roofstep.Parameter(np.zeros(2))
        >>> opt = roofstep.SGD(0.5, [w], grad_clip=ClipBySign())
        >>> w.grad = np.array([3.0, -4.0])
        >>> opt.step()
        >>> w.data
        array([-0.5,  0.5])
    """

    # That of Paddle which it was made from, if it was; made anew from it for every plan.
    _of_paddle: Any = None

    @property
    def _identity(self) -> int:
        """What is the same in clips that are one: given to several groups, it is one norm."""
        return id(self if self._of_paddle is None else self._of_paddle)

    def __call__(self, params_grads: Iterable[tuple[Parameter, Gradient | None]]) -> list[Pair]:
        """The pairs after clipping; see the class."""
        return self._dygraph_clip(params_grads)

    @abstractmethod
    def _dygraph_clip(self, params_grads: Any) -> list[Any]:
        """What a subclass overrides; the name is Paddle's."""


class FusedClip(ClipGradBase):
    """A clip that a step does inside its pass: bounds for each element, or a norm with a limit.

    The settings of a clip cannot be changed, since a step would not look at them again; put another
    clip in its place.
    """

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value of an element."""
        return (-math.inf, math.inf)

    def norm(self, shared: dict[int, _core.Norm]) -> _core.Norm | None:
        """The norm that the next parameter's gradient counts in; ``shared`` has those so far."""
        return None

    def _dygraph_clip(self, params_grads: Any) -> list[Pair]:
        """The pairs that have a gradient, what is clipped in new arrays.

        The bits are those of a step. Gradients are never written; one that is not clipped comes
        back as it is.

        Raises:
            TypeError, ValueError: there is another thing than pairs of a `Parameter` and an array
                of its shape and dtype, or None.
        """
        pairs = as_pairs(params_grads)
        for i, (parameter, gradient) in enumerate(pairs):
            if not isinstance(parameter, Parameter):
                raise TypeError(
                    f"params_grads: expected a roofstep.Parameter first in pair {i}, got a "
                    f"{type(parameter).__name__}; wrap the array, as in Parameter(array)"
                )
            if gradient is not None:
                _core.check_gradient(gradient, parameter.data, parameter.name or f"param_{i}")
        pairs = [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]
        shared: dict[int, _core.Norm] = {}
        return self.apply(pairs, [self.norm(shared) for _ in pairs])

    def apply(self, pairs: Sequence[Pair], norms: Sequence[_core.Norm | None]) -> list[Pair]:
        """Takes the norms, one or None for each pair, and clips; the pairs have been checked."""
        rows: dict[_core.Norm, list[tuple[str, Array, Array]]] = {}
        for (parameter, gradient), norm in zip(pairs, norms, strict=True):
            if norm is not None and parameter.need_clip:
                row = (parameter.name or "", parameter.data, gradient)
                rows.setdefault(norm, []).append(row)
        for norm, of_norm in rows.items():
            norm.measure(of_norm, threads.wanted())
        return [
            (parameter, self._clipped(parameter, gradient, norm))
            for (parameter, gradient), norm in zip(pairs, norms, strict=True)
        ]

    def _clipped(self, parameter: Parameter, gradient: Any, norm: _core.Norm | None) -> Any:
        """As in csrc/kernels.cpp: the factor, then the bounds."""
        scales = norm is not None and norm.factor != 1
        bounded = self.bounds != (-math.inf, math.inf)
        if not parameter.need_clip or not (scales or bounded):
            return gradient
        array = _core.as_numpy(gradient, parameter.name or "")
        T = array.dtype.type
        with np.errstate(all="ignore"):
            if norm is not None and scales:
                array = np.asarray(T(norm.factor) * array)
            if bounded:
                low, high = map(T, self.bounds)
                array = np.where(array < low, low, array)
                array = np.where(array > high, high, array)
        return parameter.as_own(array)


def is_fused(clip: ClipGradBase | None) -> TypeGuard[FusedClip]:
    """Whether a step can do it inside its pass: a subclass may do otherwise than its base."""
    return (
        isinstance(clip, FusedClip)
        and type(clip)._dygraph_clip is FusedClip._dygraph_clip
        and type(clip).__call__ is FusedClip.__call__
    )


class ClipGradByValue(FusedClip):
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

    def __init__(self, max: Number, min: Number | None = None) -> None:
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


class ClipGradByNorm(FusedClip):
    """Scales each parameter's gradient by itself to an L2 norm of at most ``clip_norm``.

    ``g * clip_norm / norm`` where ``norm = ||g|| > clip_norm``, else ``g``. The factor is computed
    in float64. A NaN makes the whole gradient NaN.

    Args:
        clip_norm: above 0; infinity measures and never clips.

    Raises:
        TypeError: ``clip_norm`` is no number.
        ValueError: ``clip_norm`` is not above 0.

    Example:
        >>> import numpy as np, roofstep
        >>> clip = roofstep.ClipGradByNorm(2.5)
        >>> clip
        ClipGradByNorm(clip_norm=2.5)
        >>> w = roofstep.Parameter(np.zeros(2))
        >>> [(_, gradient)] = clip([(w, np.array([3.0, 4.0]))])
        >>> gradient
        array([1.5, 2. ])
    """

    def __init__(self, clip_norm: Number) -> None:
        self._clip_norm = checks.real("clip_norm", clip_norm, "(0, inf]")

    @property
    def clip_norm(self) -> float:
        """The greatest norm."""
        return self._clip_norm

    def norm(self, shared: dict[int, _core.Norm]) -> _core.Norm:
        """A norm of its own for every gradient."""
        return _core.Norm(self.clip_norm)

    def __repr__(self) -> str:
        return f"ClipGradByNorm(clip_norm={self.clip_norm})"


class ClipGradByGlobalNorm(FusedClip):
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
        self, clip_norm: Number, group_name: str = "default_group", auto_skip_clip: bool = False
    ) -> None:
        self._clip_norm = checks.real("clip_norm", clip_norm, "(0, inf]")
        self.group_name = checks.text("group_name", group_name)
        self.auto_skip_clip = checks.flag("auto_skip_clip", auto_skip_clip)

    @property
    def clip_norm(self) -> float:
        """The greatest norm."""
        return self._clip_norm

    def norm(self, shared: dict[int, _core.Norm]) -> _core.Norm:
        """The one norm of this object."""
        return shared.setdefault(self._identity, _core.Norm(self.clip_norm))

    def __repr__(self) -> str:
        return f"ClipGradByGlobalNorm(clip_norm={self.clip_norm}, group_name={self.group_name!r})"


def as_clip(name: str, value: object) -> ClipGradBase | None:
    """None or a clip as it is, or one of Paddle's as one of ours, with the settings of now."""
    if isinstance(value, ClipGradBase) and value._of_paddle is not None:
        value = value._of_paddle
    if value is None or isinstance(value, ClipGradBase):
        return value
    if (theirs := libraries.settings(value)) is not None:
        found: ClipGradBase = theirs.as_clip(name, value)
        return found
    raise TypeError(
        f"{name}: expected None, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue or one of "
        f"a subclass of ClipGradBase, got {value!r}; a global norm of at most 1 is "
        f"roofstep.ClipGradByGlobalNorm(1.0)"
    )
