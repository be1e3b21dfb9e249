"""The schedules of `roofstep.lr` under a type that Paddle's optimizers and callbacks take."""

from __future__ import annotations

import inspect

import paddle

import roofstep.lr

__all__ = [
    "ConstantLR",
    "CosineAnnealingDecay",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialDecay",
    "InverseSqrt",
    "InverseTimeDecay",
    "LRScheduler",
    "LambdaDecay",
    "LinearLR",
    "LinearWarmup",
    "MultiStepDecay",
    "MultiplicativeDecay",
    "NaturalExpDecay",
    "NoamDecay",
    "OneCycleLR",
    "PiecewiseDecay",
    "PolynomialDecay",
    "ReduceOnPlateau",
    "SequentialLR",
    "StepDecay",
    "WarmupStableDecay",
]


class LRScheduler(roofstep.lr.LRScheduler, paddle.optimizer.lr.LRScheduler):  # type: ignore[misc]
    """Base of all schedules here, and for one of your own; see `roofstep.lr.LRScheduler`.

    Example:
        >>> import paddle, roofstep.paddle
        >>> rate = roofstep.paddle.lr.StepDecay(0.5, step_size=2)
        >>> layer = paddle.nn.Linear(2, 1)
        >>> theirs = paddle.optimizer.Adam(rate, parameters=layer.parameters())
        >>> ours = roofstep.paddle.Adam(rate, parameters=layer.parameters())
        >>> theirs.get_lr(), ours.get_lr()
        (0.5, 0.5)
    """

    def __init_subclass__(cls) -> None:
        cls.__doc__ = cls.__doc__ or inspect.getdoc(cls.__bases__[0])


class ConstantLR(roofstep.lr.ConstantLR, LRScheduler): ...


class CosineAnnealingDecay(roofstep.lr.CosineAnnealingDecay, LRScheduler): ...


class CosineAnnealingWarmRestarts(roofstep.lr.CosineAnnealingWarmRestarts, LRScheduler): ...


class CyclicLR(roofstep.lr.CyclicLR, LRScheduler): ...


class ExponentialDecay(roofstep.lr.ExponentialDecay, LRScheduler): ...


class InverseSqrt(roofstep.lr.InverseSqrt, LRScheduler): ...


class InverseTimeDecay(roofstep.lr.InverseTimeDecay, LRScheduler): ...


class LambdaDecay(roofstep.lr.LambdaDecay, LRScheduler): ...


class LinearLR(roofstep.lr.LinearLR, LRScheduler): ...


class LinearWarmup(roofstep.lr.LinearWarmup, LRScheduler): ...


class MultiStepDecay(roofstep.lr.MultiStepDecay, LRScheduler): ...


class MultiplicativeDecay(roofstep.lr.MultiplicativeDecay, LRScheduler): ...


class NaturalExpDecay(roofstep.lr.NaturalExpDecay, LRScheduler): ...


class NoamDecay(roofstep.lr.NoamDecay, LRScheduler): ...


class OneCycleLR(roofstep.lr.OneCycleLR, LRScheduler): ...


class PiecewiseDecay(roofstep.lr.PiecewiseDecay, LRScheduler): ...


class PolynomialDecay(roofstep.lr.PolynomialDecay, LRScheduler): ...


class ReduceOnPlateau(roofstep.lr.ReduceOnPlateau, LRScheduler): ...


class SequentialLR(roofstep.lr.SequentialLR, LRScheduler): ...


class StepDecay(roofstep.lr.StepDecay, LRScheduler): ...


class WarmupStableDecay(roofstep.lr.WarmupStableDecay, LRScheduler): ...
