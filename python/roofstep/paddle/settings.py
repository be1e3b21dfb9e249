"""Paddle's own clips and regularizers as settings: its plain ones are ours, others are called."""

from __future__ import annotations

from typing import Any

import paddle

from roofstep.clip import ClipGradBase, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
from roofstep.regularizer import L1Decay, L2Decay, WeightDecayRegularizer


class PaddleRegularizer(WeightDecayRegularizer):
    """A regularizer that was written for Paddle: it is called with the tensor itself."""

    def __init__(self, regularizer: Any) -> None:
        self._regularizer = regularizer

    def __call__(self, param: Any, grad: Any, block: None = None) -> Any:
        """The term that is added to the gradient."""
        return self._regularizer(param.data, grad, block)

    def __repr__(self) -> str:
        return repr(self._regularizer)


class PaddleClip(ClipGradBase):
    """A clip that was written for Paddle: it is called with the tensors themselves."""

    def _dygraph_clip(self, params_grads: Any) -> Any:
        return self._of_paddle._dygraph_clip([(param.data, grad) for param, grad in params_grads])

    def __repr__(self) -> str:
        return repr(self._of_paddle)


def as_regularizer(name: str, value: Any) -> WeightDecayRegularizer:
    """A regularizer of Paddle's as one of roofstep's."""
    if type(value) is paddle.regularizer.L1Decay:
        return L1Decay(value._coeff)
    if type(value) is paddle.regularizer.L2Decay:
        return L2Decay(value._coeff)
    if isinstance(value, paddle.nn.clip.ClipGradBase):
        raise TypeError(f"{name}: expected a regularizer, got the clip {value}; pass grad_clip=")
    return PaddleRegularizer(value)


def as_clip(name: str, value: Any) -> ClipGradBase:
    """A clip of Paddle's as one of roofstep's, which knows it: its attributes may be changed."""
    made = _as_clip(name, value)
    made._of_paddle = value
    return made


def as_paddles_clip(clip: ClipGradBase | None) -> Any:
    """A clip of roofstep's as one of Paddle's; one that a user wrote for roofstep as it is."""
    if clip is not None and clip._of_paddle is not None:
        return clip._of_paddle
    if type(clip) is ClipGradByValue:
        return paddle.nn.ClipGradByValue(clip.max, clip.min)
    if type(clip) is ClipGradByNorm:
        return paddle.nn.ClipGradByNorm(clip.clip_norm)
    if type(clip) is ClipGradByGlobalNorm:
        return paddle.nn.ClipGradByGlobalNorm(clip.clip_norm, clip.group_name, clip.auto_skip_clip)
    return clip


def _as_clip(name: str, value: Any) -> ClipGradBase:
    if type(value) is paddle.nn.ClipGradByValue:
        return ClipGradByValue(value.max, value.min)
    if type(value) is paddle.nn.ClipGradByNorm:
        return ClipGradByNorm(value.clip_norm)
    if type(value) is paddle.nn.ClipGradByGlobalNorm:
        return ClipGradByGlobalNorm(value.clip_norm, value.group_name, value.auto_skip_clip)
    if isinstance(value, paddle.regularizer.WeightDecayRegularizer):
        raise TypeError(f"{name}: expected a clip, got the regularizer {value}; pass weight_decay=")
    return PaddleClip()
