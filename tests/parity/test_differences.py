"""Where roofstep differs on purpose: Paddle's behaviour and ours, entry by entry of the page."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roofstep
import roofstep.paddle
from harness import (
    BARS,
    PADDLE,
    Made,
    Ours,
    Paddles,
    Run,
    built,
    error,
    paddle,
)
from programs import Dynamic, Static, StaticOfPaddle, static_mode

# Paddle's backward pass warns of itself in static mode.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")

PAGE = Path(__file__).parents[2] / "docs" / "differences-from-paddle.md"


def _anchor(heading: str) -> str:
    """As a browser of Markdown makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


ENTRIES = [_anchor(found) for found in re.findall(r"^### (.*)$", PAGE.read_text(), re.MULTILINE)]

Side = type[Run]
SIDES: tuple[Side, Side] = (Ours, Paddles)


def one(
    side: Side,
    gradient: float | None = 1.0,
    name: str = "w",
    dtype: str = "float32",
    shape: tuple[int, ...] = (1,),
    **attributes: Any,
) -> Any:
    """A parameter of ones with this gradient."""
    parameter = side.parameter(name, np.ones(shape, dtype), built(side.library, attributes))
    side.give(parameter, None if gradient is None else np.full(shape, gradient, dtype))
    return parameter


def optimizer(side: Side, cls: str, parameters: Any, **settings: Any) -> Any:
    """An optimizer with a rate of 1/2, if no other is given."""
    settings = {"learning_rate": 0.5, **built(side.library, settings)}
    return getattr(side.library, cls)(parameters=parameters, **settings)


def stepped(
    side: Side, cls: str = "SGD", group: Mapping[str, Any] | None = None, **settings: Any
) -> float:
    """What a step by a gradient of 1 makes of a parameter of 1, if need be in a group."""
    parameter = one(side)
    row = [parameter] if group is None else [{"params": [parameter], **group}]
    optimizer(side, cls, row, **settings).step()
    return float(side.value(parameter)[0])


def refused(
    kind: type[Exception] | tuple[type[Exception], ...], act: Callable[..., Any], *arguments: Any
) -> str:
    """The first line of the error that this raises."""
    with pytest.raises(kind) as caught:
        act(*arguments)
    return str(caught.value).splitlines()[0] if str(caught.value) else ""


# Arguments.


def test_learning_rates_are_any_real_number() -> None:
    for rate in (1, np.float32(0.5), np.int64(1)):
        refused(TypeError, lambda rate=rate: stepped(Paddles, learning_rate=rate))
        assert stepped(Ours, learning_rate=rate) == 1 - rate
    theirs, ours = (optimizer(side, "SGD", [one(side)]) for side in (Paddles, Ours))
    refused(TypeError, theirs.set_lr, np.float32(0.25))
    ours.set_lr(np.float32(0.25))
    assert ours.get_lr() == 0.25


def test_settings_out_of_range_are_refused() -> None:
    for cls, setting in [
        ("SGD", {"learning_rate": -1.0}),
        ("SGD", {"learning_rate": math.nan}),
        ("SGD", {"weight_decay": math.inf}),
        ("Momentum", {"momentum": -1.0}),
        ("Adagrad", {"epsilon": -1.0}),
        ("Adadelta", {"rho": 2.0}),
    ]:
        stepped(Paddles, cls, **setting)
        (name,) = setting
        assert name in refused(ValueError, lambda c=cls, s=setting: stepped(Ours, c, **s))
    for clip, arguments in [
        ("ClipGradByValue", (-1.0, 1.0)),
        ("ClipGradByNorm", (0.0,)),
        ("ClipGradByGlobalNorm", (-1.0,)),
    ]:
        getattr(PADDLE, clip)(*arguments)
        refused(ValueError, getattr(roofstep, clip), *arguments)


def test_settings_are_numbers() -> None:
    """Paddle corrects the bias of a Tensor beta as if it were 0.9; of 0.5 it makes too much."""

    def two_steps(side: Side, beta1: Any) -> float:
        parameter = one(side)
        adam = optimizer(side, "Adam", [parameter], beta1=beta1, beta2=0.5, epsilon=2.0**-20)
        adam.step()
        return float(side.value(parameter)[0])

    assert two_steps(Paddles, 0.5) == pytest.approx(0.5, abs=1e-5)
    assert two_steps(Paddles, paddle.to_tensor(0.5)) < -1
    assert two_steps(Ours, 0.5) == pytest.approx(0.5, abs=1e-5)
    refused(TypeError, two_steps, Ours, np.array([0.5]))


def test_settings_are_not_rounded() -> None:
    """One step of float64 and its exact result."""

    def velocity(side: Side) -> float:
        parameter = one(side, dtype="float64")
        momentum = optimizer(side, "Momentum", [parameter], momentum=0.9)
        momentum.step()
        momentum.step()
        return float(side.value(parameter)[0])

    exact = 1 - 0.5 - 0.5 * (0.9 * 1 + 1)
    assert error(velocity(Ours), exact) <= BARS["float64"]
    assert 1e-9 < error(velocity(Paddles), exact) < 1e-7


def test_weight_decay_is_any_real_number() -> None:
    refused(TypeError, lambda: stepped(Paddles, weight_decay=np.float32(0.5)))
    refused(TypeError, lambda: stepped(Paddles, group={"weight_decay": 1}))
    assert stepped(Ours, weight_decay=np.float32(0.5)) == 0.25
    assert stepped(Ours, group={"weight_decay": 1}) == 0


def test_adamw_without_decay() -> None:
    settings = {"epsilon": 2.0**-20}
    refused(TypeError, lambda: stepped(Paddles, "AdamW", weight_decay=None, **settings))
    refused(TypeError, lambda: stepped(Paddles, "AdamW", {"weight_decay": None}, **settings))
    none = stepped(Paddles, "AdamW", weight_decay=0.0, **settings)
    assert stepped(Ours, "AdamW", weight_decay=None, **settings) == pytest.approx(none)
    assert stepped(Ours, "AdamW", {"weight_decay": None}, **settings) == pytest.approx(none)


def test_adamw_has_layer_wise_rates_on_cpus() -> None:
    settings = {"lr_ratio": lambda parameter: 0.5, "weight_decay": 0.0, "epsilon": 2.0**-20}
    refused(NotImplementedError, lambda: stepped(Paddles, "AdamW", **settings))
    assert stepped(Ours, "AdamW", **settings) == pytest.approx(0.75)


def test_momentum_rescales_on_cpus() -> None:
    assert stepped(Paddles, "Momentum", rescale_grad=0.5) == 0.5
    assert stepped(Ours, "Momentum", rescale_grad=0.5) == 0.75


def test_all_parameters_step_in_one_call() -> None:
    def step(side: Side, dtype: str, lost: bool) -> None:
        row = [one(side, dtype=dtype, name=name) for name in "ab"]
        adam = optimizer(side, "Adam", row, use_multi_tensor=True)
        adam.step()
        if lost:
            side.give(row[1], None)
        adam.step()

    step(Paddles, "float32", lost=False)
    refused(ValueError, step, Paddles, "float64", False)
    refused(ValueError, step, Paddles, "float32", True)
    step(Ours, "float64", lost=True)


def embedded(cls: str, library: Any, looked_up: list[int], **settings: Any) -> list[float]:
    """What a row each of a sparse layer of zeros holds, after these were looked up one by one."""
    layer = paddle.nn.Embedding(3, 1, sparse=True)
    layer.weight.set_value(np.zeros((3, 1), "float32"))
    settings = {"learning_rate": 1.0, "parameters": layer.parameters(), **settings}
    optimizer = getattr(library, cls)(**settings)
    for row in looked_up:
        layer(paddle.to_tensor([row])).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    found: list[float] = layer.weight.numpy().ravel().tolist()
    return found


def test_sparse_gradients_are_for_four_optimizers() -> None:
    for cls, more in (("Momentum", {}), ("RMSProp", {}), ("Lamb", {})):
        first, _, never = embedded(cls, paddle.optimizer, [0, 1], **more)
        assert first < 0
        assert never == 0
        message = refused(ValueError, lambda c=cls, m=more: embedded(c, roofstep, [0], **m))
        assert "sparse" in message
    for cls in ("SGD", "Adagrad", "Adam", "AdamW"):
        assert embedded(cls, roofstep, [0])[0] == pytest.approx(-1, abs=1e-5)


def test_a_sparse_gradient_is_a_gradient() -> None:
    betas = {"beta1": 0.5, "beta2": 0.75}

    def of_step(t: int, m: float, v: float, epsilon: float, unscaled: bool = False) -> float:
        """The move by these moments with the corrections of step t."""
        root = math.sqrt(1 - 0.75**t)
        return root / (1 - 0.5**t) * m / (math.sqrt(v) + epsilon * (1 if unscaled else root))

    for lazy in (False, True):
        settings = {**betas, "epsilon": 1.0, "lazy_mode": lazy}
        theirs, ours = (
            embedded("Adam", library, [0, 1], **settings)
            for library in (paddle.optimizer, roofstep)
        )
        assert theirs[1] == pytest.approx(-of_step(3, 0.5, 0.25, 1.0))
        assert ours[1] == pytest.approx(-of_step(2, 0.5, 0.25, 1.0))
        # The row that is there in the first step alone.
        alone = 0.0 if lazy else of_step(3, 0.25, 0.1875, 1.0, unscaled=True)
        assert theirs[0] == pytest.approx(-of_step(2, 0.5, 0.25, 1.0) - alone)
        alone = 0.0 if lazy else of_step(2, 0.25, 0.1875, 1.0)
        assert ours[0] == pytest.approx(-of_step(1, 0.5, 0.25, 1.0) - alone)
    refused(RuntimeError, lambda: embedded("Adam", paddle.optimizer, [0], weight_decay=0.5))
    embedded("Adam", roofstep, [0], weight_decay=0.5)


def test_no_low_precision() -> None:
    low = {"use_lowprecision_moment": True}
    assert stepped(Paddles, "AdamW", **low) == stepped(Paddles, "AdamW")
    refused(ValueError, lambda: stepped(Ours, "AdamW", **low))
    half = paddle.ones([1], "bfloat16")
    half.stop_gradient = False
    half.grad = paddle.ones([1], "bfloat16")
    with pytest.warns(UserWarning, match="multi_precision"):
        PADDLE.SGD(0.5, [half]).step()
    assert half.item() == 0.5
    with pytest.warns(UserWarning, match="multi_precision"):
        refused(RuntimeError, PADDLE.Adam(0.5, parameters=[half]).step)
    refused((TypeError, ValueError), roofstep.Parameter, np.ones(1, "float16"))


def test_arguments_of_static_graphs() -> None:
    theirs, ours = (optimizer(side, "SGD", [one(side)]) for side in (Paddles, Ours))
    theirs.minimize(paddle.zeros([]), startup_program="anything")
    refused(ValueError, lambda: ours.minimize(0.0, startup_program="anything"))
    called: list[Any] = []

    def backward(library: Any) -> None:
        w = paddle.create_parameter([2], "float32")
        optimizer = library.SGD(0.5, parameters=[w])
        optimizer.backward(w.sum(), callbacks=[lambda *arguments: called.append(arguments)])

    in_a_program(lambda: backward(PADDLE))
    assert called == []
    refused(ValueError, in_a_program, lambda: backward(roofstep))


def in_a_program(act: Callable[[], Any]) -> Any:
    program = paddle.static.Program()
    with static_mode(), paddle.static.program_guard(program, paddle.static.Program()):
        return act()


def test_paddles_clips_and_regularizers_are_taken() -> None:
    for given, same in [
        ({"weight_decay": paddle.regularizer.L1Decay(0.5)}, {"weight_decay": Made("L1Decay", 0.5)}),
        ({"grad_clip": paddle.nn.ClipGradByNorm(0.5)}, {"grad_clip": Made("ClipGradByNorm", 0.5)}),
    ]:
        assert stepped(Ours, **given) == stepped(Ours, **same) == stepped(Paddles, **given) != 0.5
    refused(TypeError, lambda: stepped(Paddles, grad_clip=roofstep.ClipGradByNorm(0.5)))
    for side in SIDES:
        parameter, clip = one(side), paddle.nn.ClipGradByNorm(0.5)
        own = optimizer(side, "SGD", [parameter], grad_clip=clip)
        own.step()
        clip.clip_norm = 0.25
        own.step()
        assert side.value(parameter) == 1 - 0.5 * 0.5 - 0.5 * 0.25
        if side is Ours:
            state = own.state_dict()
            own.set_state_dict(state)
            clip.clip_norm = 0.5
            assert own.state_dict()["grad_clips"] == state["grad_clips"]
    decay = paddle.regularizer.L2Decay(0.5)
    assert all(name.startswith("_") for name in vars(decay))


def test_a_schedule_is_whatever_acts_as_one() -> None:
    class Own:
        def __call__(self) -> float:
            return 0.25

        def step(self) -> None: ...

    refused(TypeError, lambda: stepped(Paddles, learning_rate=Own()))
    assert stepped(Ours, learning_rate=Own()) == 0.75
    assert "roofstep.paddle.lr" in refused(TypeError, roofstep.paddle.SGD, Own())
    both = roofstep.paddle.lr.ConstantLR(0.25)
    assert roofstep.paddle.SGD(both).get_lr() == stepped(Paddles, learning_rate=both) - 0.5


def test_the_base_class_has_a_default_rate() -> None:
    refused(TypeError, PADDLE.Optimizer)
    assert roofstep.Optimizer().get_lr() == 0.001


# Parameters and groups.


def test_parameters_are_numpy_arrays() -> None:
    PADDLE.ParamAttr(initializer=paddle.nn.initializer.Constant(1.0), do_model_average=False)
    for absent in ("initializer", "do_model_average"):
        refused(TypeError, lambda absent=absent: roofstep.ParamAttr(**{absent: None}))
    assert PADDLE.ParamAttr("w", None, 0.5).learning_rate == 0.5
    assert roofstep.ParamAttr("w", 0.5).learning_rate == 0.5
    tensor = paddle.create_parameter([1], "float32", attr=PADDLE.ParamAttr(learning_rate=0.5))
    refused(TypeError, roofstep.Parameter, tensor)
    assert roofstep.SGD(0.5, [tensor]).parameters[0].learning_rate == 0.5


def test_parameters_may_come_later() -> None:
    refused(AttributeError, lambda: PADDLE.SGD(0.5))
    optimizer = roofstep.SGD(0.5)
    parameter = one(Ours)
    optimizer.apply_gradients([(parameter, parameter.grad)])
    assert parameter.data == 0.5
    PADDLE.SGD(0.5, [])  # fails at its first step
    refused(IndexError, PADDLE.SGD(0.5, []).step)
    refused(ValueError, roofstep.SGD, 0.5, [])


def test_a_parameter_is_given_once() -> None:
    parameter = one(Paddles)
    PADDLE.SGD(0.5, [parameter, parameter]).step()
    assert Paddles.value(parameter) == 0
    refused(ValueError, roofstep.SGD, 0.5, [one(Ours)] * 2)


def test_parameters_of_both_precisions() -> None:
    def step(side: Side) -> None:
        row = [one(side, dtype=dtype, name=dtype) for dtype in ("float32", "float64")]
        optimizer(side, "Adam", row).step()

    refused(ValueError, step, Paddles)
    step(Ours)


def test_unknown_keys_of_a_group_are_refused() -> None:
    assert stepped(Paddles, group={"lr": 0.5}) == 0.5
    assert "'lr'" in refused(ValueError, lambda: stepped(Ours, group={"lr": 0.5}))


def test_none_in_a_group_means_none() -> None:
    for cls in ("SGD", "Adam"):
        group = {"weight_decay": None}
        settings = {"weight_decay": 2.0, "learning_rate": 0.5}
        assert stepped(Paddles, cls, group, **settings) == stepped(Paddles, cls, **settings)
        assert stepped(Ours, cls, group, **settings) == stepped(Ours, cls, learning_rate=0.5)
    assert stepped(Paddles, group={"weight_decay": None}, weight_decay=0.5) == 0.25
    assert stepped(Ours, group={"weight_decay": None}, weight_decay=0.5) == 0.5


def test_a_groups_decay_takes_the_place_of_the_optimizers() -> None:
    l1 = Made("L1Decay", 0.25)
    assert stepped(Paddles, "Momentum", {"weight_decay": 0.5}, weight_decay=l1) == 0.125  # both
    assert stepped(Ours, "Momentum", {"weight_decay": 0.5}, weight_decay=l1) == 0.25


def test_the_learning_rate_of_a_group_is_a_factor() -> None:
    assert stepped(Paddles, group={"learning_rate": 0.5}) == 0.75
    assert stepped(Paddles, group={"learning_rate": paddle.to_tensor(0.125)}) == 0.875
    assert stepped(Ours, group={"learning_rate": 0.5}) == 0.75
    refused(TypeError, lambda: stepped(Ours, group={"learning_rate": np.array([0.125])}))


def test_groups_leave_parameters_and_dicts_as_they_are() -> None:
    for side in SIDES:
        parameter = one(side, learning_rate=0.5, regularizer=Made("L2Decay", 1.0))
        group = {"params": [parameter]}
        optimizer(side, "Momentum", [group], weight_decay=0.25).step()
        if side is Paddles:
            assert {*group} > {"params"}
            assert parameter.regularizer is None
            assert parameter.optimize_attr["learning_rate"] == 1.0
            assert Paddles.value(parameter) == 1 - 0.5 * 1.25
        else:
            assert {*group} == {"params"}
            assert parameter.data == 1 - 0.25 * 2.0
    leaked, kept = one(Paddles), one(Ours)
    for side, parameter in ((Paddles, leaked), (Ours, kept)):
        optimizer(side, "SGD", [{"params": [parameter], "weight_decay": 1.0}])
        optimizer(side, "SGD", [parameter]).step()
    assert (Paddles.value(leaked), Ours.value(kept)) == (0, 0.5)


def test_the_rate_of_rprop_is_where_step_sizes_begin() -> None:
    """A gradient of 1 makes the first step as long as the first step size, 2**-4."""

    def step(side: Side, group: Mapping[str, Any] | None = None, **attributes: Any) -> float:
        parameter = one(side, **attributes)
        row = [parameter] if group is None else [{"params": [parameter], **group}]
        optimizer(side, "Rprop", row, learning_rate=2**-4).step()
        return 1 - float(side.value(parameter)[0])

    for side, factor in ((Paddles, 1.0), (Ours, 0.5)):
        assert step(side) == 2**-4
        assert step(side, {"learning_rate": 0.5}) == factor * 2**-4
        assert step(side, learning_rate=0.5) == factor * 2**-4
        schedule = built(side.library, Made("lr.ExponentialDecay", 0.5, 0.5))
        refused(TypeError, lambda s=side, r=schedule: stepped(s, "Rprop", learning_rate=r))
    theirs, ours = (optimizer(side, "Rprop", [one(side)]) for side in (Paddles, Ours))
    theirs.set_lr(2**-5)
    theirs.step()
    assert theirs._parameter_list[0].item() == 0.5  # by the rate of the constructor
    refused(RuntimeError, ours.set_lr, 2**-5)


def test_rprop_steps_scalars() -> None:
    refused(IndexError, optimizer(Paddles, "Rprop", [one(Paddles, shape=())]).step)
    scalar = one(Ours, shape=())
    optimizer(Ours, "Rprop", [scalar]).step()
    assert scalar.data == 0.5


def test_lamb_and_rprop_have_no_weight_decay() -> None:
    for cls in ("Lamb", "Rprop"):
        for side in SIDES:
            refused(TypeError, lambda c=cls, s=side: stepped(s, c, weight_decay=0.5))
        group = {"weight_decay": -2.0}  # turns the gradient of 1 into -1
        assert stepped(Paddles, cls, {}) < 1 < stepped(Paddles, cls, group)
        refused(ValueError, lambda c=cls, g=group: stepped(Ours, c, g))


# LBFGS, on the sum over all parameters of (p - 3)**2, which it solves in one step.


def squares(side: Side, parameters: list[Any]) -> Callable[[], Any]:
    """A closure that drops the gradients, sets them, and returns the loss."""

    def closure() -> Any:
        for parameter in parameters:
            side.give(parameter, None)
        if side is Paddles:
            loss = sum((p - 3).square().sum() for p in parameters)
            loss.backward()
            return loss
        for parameter in parameters:
            parameter.grad = 2 * (parameter.data - 3)
        return sum(float(((p.data - 3) ** 2).sum()) for p in parameters)

    return closure


def solved(side: Side, grouped: bool = False, **settings: Any) -> list[float]:
    """Where LBFGS takes two parameters from 1."""
    row = [one(side, None, name) for name in "ab"]
    own = optimizer(
        side,
        "LBFGS",
        [{"params": [p]} for p in row] if grouped else row,
        line_search_fn="strong_wolfe",
        **settings,
    )
    with warnings.catch_warnings():
        # Paddle's line search warns of what it does itself.
        warnings.filterwarnings("ignore", "To copy construct from a tensor", UserWarning)
        own.step(squares(side, row))
    return [float(side.value(p)[0]) for p in row]


def test_lbfgs_decays() -> None:
    """With c/2 * p**2 the best p is 6 / (2 + c)."""
    assert solved(Paddles, weight_decay=2.0) == pytest.approx([3, 3], rel=1e-3)
    assert solved(Ours, weight_decay=2.0) == pytest.approx([1.5, 1.5], rel=1e-3)


def test_lbfgs_takes_no_clip() -> None:
    clip = Made("ClipGradByValue", 2.0**-10)
    assert solved(Paddles, grad_clip=clip) == solved(Paddles)
    refused(ValueError, lambda: solved(Ours, grad_clip=clip))


def test_lbfgs_moves_all_groups() -> None:
    assert solved(Paddles, grouped=True) == pytest.approx([1, 3], rel=1e-3)
    assert solved(Ours, grouped=True) == pytest.approx([3, 3], rel=1e-3)


def test_lbfgs_has_a_learning_rate() -> None:
    for side in SIDES:
        parameter = one(side, None)
        own = optimizer(side, "LBFGS", [parameter], learning_rate=0.5, max_iter=1)
        assert own.get_lr() == (1.0 if side is Paddles else 0.5)
        own.set_lr(0.25)
        own.step(squares(side, [parameter]))
        # The first step is as long as the rate: the gradient is scaled to a sum of 1.
        assert side.value(parameter) == 1 + (0.5 if side is Paddles else 0.25)


def test_lbfgs_resumes() -> None:
    """After the first iteration a step knows the curvature, and is no longer scaled to 1."""
    for side in SIDES:
        parameter = one(side, None)
        straight, resumed = (
            optimizer(side, "LBFGS", [parameter], max_iter=1, learning_rate=0.5) for _ in range(2)
        )
        straight.step(squares(side, [parameter]))
        assert side.value(parameter) == 1.5
        resumed.set_state_dict(straight.state_dict())
        resumed.step(squares(side, [parameter]))
        assert side.value(parameter) == (2.0 if side is Paddles else 2.25)


# Gradients and clipping.


def test_one_global_norm_over_all_groups() -> None:
    def step(side: Side) -> list[float]:
        a, b = one(side, 3.0, "a"), one(side, 4.0, "b")
        groups = [{"params": [a]}, {"params": [b]}]
        clip = Made("ClipGradByGlobalNorm", 2.5)
        optimizer(side, "SGD", groups, grad_clip=clip, learning_rate=1.0).step()
        return [float(side.value(p)[0]) for p in (a, b)]

    assert step(Paddles) == [1 - 2.5, 1 - 2.5]
    assert step(Ours) == [1 - 1.5, 1 - 2.0]

    def calls(side: Side) -> list[list[str]]:
        """What a clip of the user's own is called with."""
        seen = []

        class Watching(side.library.ClipGradBase):  # type: ignore[misc, name-defined]
            def _dygraph_clip(self, params_grads: Any) -> Any:
                seen.append([p.name for p, _ in params_grads])
                return params_grads

        groups = [{"params": [one(side, name=name)]} for name in "ab"]
        optimizer(side, "SGD", groups, grad_clip=Watching()).step()
        return seen

    assert calls(Paddles) == [["a"], ["b"]]
    assert calls(Ours) == [["a", "b"]]


def test_gradients_are_read_and_not_written() -> None:
    for side, left in ((Paddles, 1.0), (Ours, 4.0)):
        parameter = one(side, 4.0)
        clip = Made("ClipGradByGlobalNorm", 1.0)
        optimizer(side, "SGD", [parameter], grad_clip=clip).step()
        assert side.value(parameter) == 0.5
        assert np.asarray(parameter.grad) == left


def test_norm_clipping_in_float64() -> None:
    def step(side: Side) -> float:
        parameter = one(side, 4.0, dtype="float64")
        optimizer(side, "SGD", [parameter], grad_clip=Made("ClipGradByNorm", 1.0)).step()
        return float(side.value(parameter)[0])

    refused(RuntimeError, step, Paddles)
    assert step(Ours) == 0.5


def test_scalars_under_a_global_norm() -> None:
    def step(side: Side, cls: str) -> None:
        clip = Made("ClipGradByGlobalNorm", 0.5)
        optimizer(side, cls, [one(side, shape=())], grad_clip=clip).step()

    step(Paddles, "Adam")
    for cls in ("Adadelta", "Adamax"):
        refused(ValueError, step, Paddles, cls)
        step(Ours, cls)


def test_norms_do_not_overflow() -> None:
    for side in SIDES:
        parameter = one(side, 1e25)
        clip = Made("ClipGradByGlobalNorm", 0.5)
        optimizer(side, "SGD", [parameter], grad_clip=clip).step()
        assert side.value(parameter) == pytest.approx(1.0 if side is Paddles else 0.75)


def test_an_infinite_norm_measures() -> None:
    for side in SIDES:
        parameter = one(side)
        clip = Made("ClipGradByGlobalNorm", math.inf)
        own = optimizer(side, "SGD", [parameter], grad_clip=clip)
        own.step()
        if side is Paddles:
            assert np.isnan(side.value(parameter))
        else:
            assert (side.value(parameter), own.last_grad_norm) == (0.5, 1.0)


def test_auto_skip_clip_changes_nothing() -> None:
    """A norm of NaN is not above the limit: Paddle then leaves the other gradients as they are."""
    for side in SIDES:
        for skip in (False, True):
            row = [one(side, math.nan, "bad"), one(side, 4.0, "good")]
            clip = Made("ClipGradByGlobalNorm", 1.0, auto_skip_clip=skip)
            optimizer(side, "SGD", row, grad_clip=clip).step()
            assert np.isnan(side.value(row[1])) == (side is Ours or not skip)


def test_clear_grad_drops_the_gradients() -> None:
    def two_steps(side: Side, *arguments: bool) -> float:
        parameter = one(side)
        momentum = optimizer(side, "Momentum", [parameter], momentum=0.5)
        momentum.step()
        momentum.clear_grad(*arguments)
        momentum.step()
        return float(side.value(parameter)[0])

    assert two_steps(Paddles) == two_steps(Paddles, True) == 0.25
    assert two_steps(Ours) == two_steps(Ours, False) == two_steps(Paddles, False) == 0.5


def test_a_step_may_zero_the_gradients() -> None:
    theirs, ours = (optimizer(side, "SGD", [one(side)]) for side in (Paddles, Ours))
    refused(TypeError, lambda: theirs.step(clear_grad=True))
    ours.step(clear_grad=True)
    assert ours.parameters[0].grad == 0


# Methods.


def test_minimize_takes_groups_and_names() -> None:
    def act(side: Side, grouped: bool, **arguments: Any) -> float:
        parameter = one(side)
        own = optimizer(side, "SGD", [{"params": [parameter]}] if grouped else [parameter])
        own.minimize(paddle.zeros([]) if side is Paddles else 0.0, **arguments)
        return float(side.value(parameter)[0])

    refused(TypeError, lambda: act(Paddles, grouped=True))
    refused(TypeError, lambda: act(Paddles, grouped=False, parameters=["w"]))
    assert act(Ours, grouped=True) == act(Ours, grouped=False, parameters=["w"]) == 0.5


def test_minimize_honours_no_grad_set() -> None:
    for side in SIDES:
        kept, moved = one(side, name="kept"), one(side, name="moved")
        loss = paddle.zeros([]) if side is Paddles else 0.0
        optimizer(side, "SGD", [kept, moved]).minimize(loss, no_grad_set=["kept"])
        assert (side.value(kept), side.value(moved)) == (0.5 if side is Paddles else 1.0, 0.5)


def test_minimize_refuses_to_do_nothing() -> None:
    theirs, ours = (optimizer(side, "SGD", [one(side, None)]) for side in (Paddles, Ours))
    assert theirs.minimize(paddle.zeros([])) == ([], [])
    refused(ValueError, ours.minimize, 0.0)


def test_minimize_differentiates() -> None:
    class Loss:
        def __init__(self, parameter: Any) -> None:
            self._parameter = parameter

        def backward(self) -> None:
            self._parameter.grad = np.ones(1, "float32")

    theirs, ours = one(Paddles, None), one(Ours, None)
    loss = (theirs * 1.0).sum()
    optimizer(Paddles, "SGD", [theirs]).minimize(loss)
    optimizer(Ours, "SGD", [ours]).minimize(Loss(ours))
    assert (Paddles.value(theirs), Ours.value(ours), ours.grad) == (1.0, 0.5, None)


def test_apply_gradients_honours_groups() -> None:
    for side in SIDES:
        parameter = one(side)
        group = {"params": [parameter], "grad_clip": Made("ClipGradByValue", 0.5)}
        own = optimizer(side, "SGD", [built(side.library, group)])
        own.apply_gradients([(parameter, parameter.grad)])
        assert side.value(parameter) == (0.5 if side is Paddles else 0.75)


def test_methods_of_paddles_own_machinery() -> None:
    adam = optimizer(Paddles, "Adam", [one(Paddles)])
    adam.step()
    assert len(adam.get_opti_var_name_list()) == 4
    assert not hasattr(roofstep.Adam, "get_opti_var_name_list")
    assert hasattr(adam, "_accumulators")
    for attribute in ("get_opti_var_name_list", "_accumulators"):
        text = refused(AttributeError, lambda a=attribute: getattr(roofstep.paddle.Adam(), a))
        assert "state_dict()" in text


# States.


def state_of(side: Side, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """An optimizer after a step and its state dict."""
    own = optimizer(side, "Adam", [one(side)], **settings)
    own.step()
    return own, own.state_dict()


def test_keys_of_a_state_are_stable() -> None:
    (_, first), (_, second) = state_of(Paddles), state_of(Paddles)
    assert {*first}.isdisjoint(second)
    fresh = optimizer(Paddles, "Adam", [one(Paddles)])
    fresh.set_state_dict(first)
    refused(AssertionError, fresh.step)
    (_, ours), (_, same) = state_of(Ours), state_of(Ours)
    assert {*ours} == {*same} >= {"w_moment1_0", "w_moment2_0"}
    fresh = optimizer(Ours, "Adam", [one(Ours)])
    fresh.set_state_dict({re.sub(r"_0$", "_7", key): value for key, value in ours.items()})
    fresh.step()


def test_the_name_of_an_optimizer_is_in_no_key() -> None:
    assert "w_N_moment1_0" in {re.sub(r"\d+$", "0", key) for key in state_of(Paddles, name="N")[1]}
    assert "w_moment1_0" in state_of(Ours, name="N")[1]


def test_a_state_dict_holds_copies() -> None:
    for side in SIDES:
        own, state = state_of(side)
        key = next(key for key in state if "moment1" in key)
        before = np.array(state[key])
        own.step()
        assert (np.array(state[key]) == before).all() == (side is Ours)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    """Paddle asserts one thing at a time, and what it has loaded by then stays."""
    for side in SIDES:
        own, state = state_of(side)
        good = {
            key: np.full_like(np.asarray(value), 0.5)
            for key, value in state.items()
            if "moment" in key
        }
        bad = {key: value for key, value in good.items() if "moment2" not in key}
        refused((AssertionError, ValueError), own.set_state_dict, bad)
        after = own.state_dict()
        key = next(key for key in good if "moment1" in key)
        assert (np.asarray(after[key]) == 0.5).all() == (side is Paddles)


def test_settings_are_saved_with_the_states() -> None:
    for side in SIDES:
        _, state = state_of(side, learning_rate=0.25)
        fresh = optimizer(side, "Adam", [one(side)], learning_rate=0.125)
        fresh.set_state_dict(state)
        assert fresh.get_lr() == (0.125 if side is Paddles else 0.25)


def test_what_a_state_leaves_out_begins_anew() -> None:
    for side in SIDES:
        row = [one(side, name=name) for name in "ab"]
        own = optimizer(side, "Adam", row)
        own.step()
        state = {key: value for key, value in own.state_dict().items() if not key.startswith("a_")}
        # Into Paddle's under the keys that it will look for.
        state = {re.sub(r"_(\d+)$", lambda n: f"_{int(n[1]) + 1}", k): v for k, v in state.items()}
        fresh = optimizer(side, "Adam", row)
        fresh.set_state_dict(state)
        if side is Paddles:
            assert "a_moment1" in refused(AssertionError, fresh.step)
        else:
            fresh.step()
            after = fresh.state_dict()
            assert (after["a_step_0"], after["b_step_0"]) == (1, 2)
    averaging = optimizer(Ours, "SGD", [one(Ours)])
    averaging.average_weights(0.5)
    averaging.step()
    state = averaging.state_dict()
    del state["w_average_0"]
    averaging.set_state_dict(state)
    averaging.step()
    assert averaging.state_dict()["w_average_0"] == (0.5 + 0.0) / 2


def test_step_counts_are_kept_as_counts() -> None:
    """Paddle multiplies in float32; after 2000 steps the power is off."""
    theirs, ours = (optimizer(side, "Adam", [one(side, shape=(1,))]) for side in (Paddles, Ours))
    for _ in range(2000):
        theirs.step()
        ours.step()
    (power,) = (value for key, value in theirs.state_dict().items() if "beta2_pow" in key)
    exact = 0.999**2001
    assert abs(power.item() - exact) > 1e-6 * exact
    assert int(ours.state_dict()["w_step_0"]) == 2000


def test_a_number_is_kept_once_per_parameter() -> None:
    for side, shape in ((Paddles, (65, 67)), (Ours, ())):
        own = optimizer(side, "NAdam", [one(side, shape=(65, 67))])
        own.step()
        (product,) = (value for key, value in own.state_dict().items() if "mu_product" in key)
        assert tuple(product.shape) == shape


# Schedules.


def test_schedules_start_and_jump_anywhere() -> None:
    def later(library: Any, cls: str, *arguments: Any) -> tuple[float, float, float]:
        """The rate at epoch 5: by steps, from the constructor, by a jump."""
        by_steps, jumped = (getattr(library.lr, cls)(*arguments) for _ in range(2))
        for _ in range(5):
            by_steps.step()
        jumped.step(5)
        begun = getattr(library.lr, cls)(*arguments, last_epoch=4)
        return by_steps(), begun(), jumped()

    for cls, arguments in [("CosineAnnealingDecay", (0.5, 10)), ("LinearLR", (0.5, 10, 0.5))]:
        right, begun, jumped = later(PADDLE, cls, *arguments)
        assert abs(begun - right) > 0.01
        assert abs(jumped - right) > 0.01 or cls == "CosineAnnealingDecay"
        assert later(roofstep, cls, *arguments) == pytest.approx((right,) * 3, rel=1e-12)


def test_warm_restarts_resume() -> None:
    for library in (PADDLE, roofstep):
        straight, resumed = (library.lr.CosineAnnealingWarmRestarts(0.5, 5) for _ in range(2))
        for _ in range(7):
            straight.step()
        resumed.set_state_dict(straight.state_dict())
        straight.step()
        resumed.step()
        assert (straight() == resumed()) == (library is roofstep)


def test_warm_restarts_are_counted_in_whole_numbers() -> None:
    for library in (PADDLE, roofstep):
        schedule = library.lr.CosineAnnealingWarmRestarts(1.0, 3, 3)
        schedule.step(363)  # 3 + 9 + 27 + 81 + 243: the start of a run
        assert schedule() == (1.0 if library is roofstep else 0.0)


def test_one_cycle_ends_with_its_last_rate() -> None:
    for library in (PADDLE, roofstep):
        schedule = library.lr.OneCycleLR(1.0, 10, end_learning_rate=0.0)
        schedule.step(9)
        assert schedule() == 0
        schedule.step(10)
        assert (schedule() == 0) == (library is roofstep)
    refused(ZeroDivisionError, lambda: PADDLE.lr.OneCycleLR(1.0, 10, phase_pct=0.1))
    assert roofstep.lr.OneCycleLR(1.0, 10, phase_pct=0.1)() == 1


def test_a_metric_after_a_warmup() -> None:
    """A loss that falls gives no reason to reduce the rate."""
    for library in (PADDLE, roofstep):
        inner = library.lr.ReduceOnPlateau(0.5, patience=0)
        schedule = library.lr.LinearWarmup(inner, 2, 0.0, 0.5)
        for epoch in range(8):
            if library is roofstep:
                schedule.step(metrics=-float(epoch))
            else:
                schedule.step()
        assert (schedule() == 0.5) == (library is roofstep)


def test_loading_a_warmup_is_silent() -> None:
    def load(library: Any) -> None:
        schedule = library.lr.LinearWarmup(library.lr.ExponentialDecay(0.5, 0.5), 2, 0.0, 0.5)
        schedule.set_state_dict(schedule.state_dict())

    with pytest.warns(UserWarning, match="unused values"):
        load(PADDLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(roofstep)


def test_metrics_are_any_real_number() -> None:
    theirs, ours = (library.lr.ReduceOnPlateau(0.5) for library in (PADDLE, roofstep))
    refused(TypeError, theirs.step, np.int64(1))
    ours.step(np.int64(1))
    theirs.step(paddle.to_tensor([1.0]))
    refused(TypeError, theirs.state_dict)
    ours.step(paddle.to_tensor([1.0]))
    assert type(ours.state_dict()["best"]) is float


def test_a_metric_below_zero() -> None:
    """-0.9 is no improvement by half on -1; Paddle says it is."""
    for library in (PADDLE, roofstep):
        schedule = library.lr.ReduceOnPlateau(0.5, patience=0, threshold=0.5)
        schedule.step(-1.0)
        schedule.step(-0.9)
        assert schedule.best == (-1.0 if library is roofstep else -0.9)


def test_nan_is_never_the_best_metric() -> None:
    for library in (PADDLE, roofstep):
        schedule = library.lr.ReduceOnPlateau(0.5, patience=5)
        for metric in (math.nan, 1.0, 0.5):
            schedule.step(metric)
        assert (schedule.best == 0.5) == (library is roofstep)


def test_schedules_take_any_real_number_in_range() -> None:
    refused(TypeError, PADDLE.lr.ExponentialDecay, np.float32(0.5), 0.5)
    assert roofstep.lr.ExponentialDecay(np.float32(0.5), 0.5)() == 0.5
    arguments = (0.1, 1, 2, None, "exp_range", 1)
    refused(TypeError, PADDLE.lr.CyclicLR, *arguments)
    roofstep.lr.CyclicLR(*arguments)
    assert PADDLE.lr.PiecewiseDecay([1], [1.0, 2.0, 3.0])() == 1.0
    refused(ValueError, roofstep.lr.PiecewiseDecay, [1], [1.0, 2.0, 3.0])
    backwards = PADDLE.lr.ExponentialDecay(0.5, 0.5)
    backwards.step(-2)
    assert backwards() == 2.0
    refused(ValueError, roofstep.lr.ExponentialDecay(0.5, 0.5).step, -2)


# Static graphs.


def static(side: type[Static], cls: str, **settings: Any) -> Static:
    return side(cls, settings, "float32", ["row", "matrix"])


def test_static_mode_lacks_nothing() -> None:
    clip = Made("ClipGradByValue", 0.5)
    refused(NotImplementedError, lambda: static(StaticOfPaddle, "SGD", grad_clip=clip))
    static(Static, "SGD", grad_clip=clip)
    rows = [(["row"], {"learning_rate": 0.5}), (["matrix"], {})]
    refused(TypeError, lambda: StaticOfPaddle("SGD", {}, "float32", ["row", "matrix"], groups=rows))
    Static("SGD", {}, "float32", ["row", "matrix"], groups=rows)
    theirs, ours = (static(side, "SGD", learning_rate=0.5) for side in (StaticOfPaddle, Static))
    with static_mode():
        refused(AssertionError, theirs.optimizer.set_lr, 0.25)
        refused(AssertionError, theirs.optimizer.state_dict)
        ours.optimizer.set_lr(0.25)
        assert ours.optimizer.state_dict()["learning_rate"] == 0.25
    with theirs.built():
        refused(TypeError, lambda: theirs.optimizer.minimize(theirs.loss, parameters=["row"]))
    with ours.built():
        ours.optimizer.minimize(ours.loss, parameters=["row"])
    # Two gradients of a ring of two: from the second step on Paddle has lost the first.
    ends = []
    for side in (StaticOfPaddle, Static, Dynamic):
        run = side("ASGD", {"learning_rate": 0.5, "batch_num": 2}, "float32", ["matrix"])
        for step in range(3):
            run.advance(step)
        ends.append(run.values()["matrix"])
    np.testing.assert_array_equal(ends[1], ends[2])
    assert error(ends[0], ends[2]) > 0.01


def test_every_run_makes_the_update() -> None:
    theirs, ours = (static(side, "SGD", learning_rate=0.5) for side in (StaticOfPaddle, Static))
    for run in (theirs, ours):
        before = run.values()
        run.advance(0)
        assert error(run.values()["matrix"], before["matrix"]) > 0.1
    assert "fetch_list" not in refused(TypeError, theirs.advance, 0, [theirs.result])
    for fetched in ([ours.result], [ours.result[0]], ours.result[0]):
        assert "fetch_list=[loss]" in refused(TypeError, ours.advance, 0, fetched)
    for run in (theirs, ours):
        refused(TypeError, lambda run=run: run.main.clone(for_test=True))


def test_states_belong_to_an_optimizer_and_its_weights() -> None:
    settings = {"learning_rate": 0.5, "momentum": 0.5}
    for side in (StaticOfPaddle, Static):
        run = static(side, "Momentum", **settings)
        first = [run.advance(step) and run.values()["matrix"] for step in range(3)]
        run.start()
        again = [run.advance(step) and run.values()["matrix"] for step in range(3)]
        np.testing.assert_array_equal(first, again)
    # Paddle's states are of the scope, ours go where they are let.
    other = paddle.static.Scope()
    for side in (StaticOfPaddle, Static):
        run = static(side, "Momentum", **settings)
        run.advance(0)
        home, run.scope = run.scope, other
        run.start()
        run.advance(0)
        run.scope = home
        if side is Static:
            refused(SystemError, run.advance, 1)
            assert "another scope" in str(run.optimizer.last_error)
        else:
            run.advance(1)


def test_a_program_is_saved_by_its_values(tmp_path: Path) -> None:
    theirs, ours, again = (
        static(side, "Momentum", learning_rate=0.5) for side in (StaticOfPaddle, Static, Static)
    )
    with static_mode(), paddle.static.scope_guard(theirs.scope):
        paddle.static.save(theirs.main, str(tmp_path / "theirs"))
    ours.advance(0)
    model, state = str(tmp_path / "model.pdparams"), str(tmp_path / "model.pdopt")
    with static_mode(), paddle.static.scope_guard(ours.scope):
        refused(ValueError, paddle.static.save, ours.main, str(tmp_path / "ours"))
        paddle.save(ours.main.state_dict("param"), model)
        paddle.save(ours.optimizer.state_dict(), state)
        inputs = [op.result(0) for op in ours.main.global_block().ops if op.name() == "pd_op.data"]
        path = str(tmp_path / "inference")
        paddle.static.save_inference_model(
            path, inputs, [ours.loss], ours.executor, program=ours.main
        )
        program, _, _ = paddle.static.load_inference_model(path, ours.executor)
        assert not any("roofstep" in op.name() for op in program.global_block().ops)
    with static_mode(), paddle.static.scope_guard(again.scope):
        again.main.set_state_dict(paddle.load(model), paddle.static.global_scope())
        again.optimizer.set_state_dict(paddle.load(state))
    for step in range(1, 4):
        for run in (ours, again):
            run.advance(step)
        for name, value in ours.values().items():
            np.testing.assert_array_equal(value, again.values()[name])


def test_programs_of_the_former_ir_are_refused() -> None:
    """Paddle makes them if it is told to before it is imported."""
    code = """if True:
        import warnings
        warnings.simplefilter("ignore")
        import paddle, roofstep
        paddle.enable_static()
        x = paddle.static.data("x", [2, 3])
        {}.SGD(0.5).minimize(paddle.nn.Linear(3, 1)(x).mean())
    """
    old = {**os.environ, "FLAGS_enable_pir_api": "0"}

    def run(library: str) -> str:
        program = [sys.executable, "-c", code.replace("{}", library)]
        return subprocess.run(program, env=old, capture_output=True, text=True).stderr

    assert "Error" not in run("paddle.optimizer")
    assert "TypeError: loss" in run("roofstep")


def test_errors_of_a_step_are_kept() -> None:
    class Failing(PADDLE.ClipGradBase):
        def _dygraph_clip(self, params_grads: Any) -> Any:
            raise KeyError("mine")

    run = static(Static, "SGD", grad_clip=Failing())
    refused(SystemError, run.advance, 0)
    assert isinstance(run.optimizer.last_error, KeyError)
    roofstep.paddle.raise_step_errors()
    try:
        assert "mine" in refused(KeyError, run.advance, 0)
    finally:
        roofstep.paddle.raise_step_errors(False)


def test_reducelronplateau_takes_effect() -> None:
    """The callback sets `_learning_rate`, after a first step here."""
    for library, moved in ((PADDLE, 0.5), (roofstep.paddle, 0.25)):
        w = paddle.to_tensor(np.ones(1, "float32"), stop_gradient=False)
        optimizer = library.SGD(0.5, parameters=[w])
        for rate in (0.5, 0.25):
            optimizer._learning_rate = rate
            w.grad, before = paddle.ones([1]), w.item()
            optimizer.step()
        assert optimizer.get_lr() == 0.25
        assert before - w.item() == moved


# The page.


def test_every_entry_has_a_case_and_every_case_an_entry() -> None:
    cases = {name for name in globals() if name.startswith("test_")}
    cases.remove(test_every_entry_has_a_case_and_every_case_an_entry.__name__)
    assert cases == {"test_" + entry.replace("-", "_") for entry in ENTRIES}
    assert len(ENTRIES) == len({*ENTRIES})
