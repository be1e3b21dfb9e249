"""Paddle's static graphs: the bits of dynamic mode, Paddle's own numbers, ordering, refusals."""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import roofstep
import roofstep.paddle
from harness import BARS, SHAPES, Made, close, paddle
from programs import Dynamic, Static, StaticOfPaddle, gradients, static_mode
from table import FAMILIES
from test_optimizers import groups

Array = np.ndarray[Any, Any]
STEPS = range(6)

# Paddle's backward pass warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")

# Classes that Paddle lacks, with arguments.
OURS_ALONE = {"LARS": {"learning_rate": 0.1}, "Lion": {}, "Adan": {}}
CLASSES = {**{cls: family.base for cls, family in FAMILIES.items()}, **OURS_ALONE}


def same_bits(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].tobytes() == b[n].tobytes() and a[n].dtype == b[n].dtype for n in a
    )


def agree(static: Static, dynamic: Dynamic, steps: range = STEPS) -> None:
    """Steps both, and compares the bits of parameters and states."""
    for step in steps:
        before = static.values()
        static.advance(step)
        dynamic.advance(step)
        assert same_bits(static.values(), dynamic.values()), step
        assert not same_bits(static.values(), before)
        assert static.optimizer.last_grad_norm == dynamic.optimizer.last_grad_norm
    ours, theirs = static.optimizer.state_dict(), dynamic.optimizer.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(value, np.ndarray):
            assert value.tobytes() == theirs[key].tobytes(), key
        else:
            assert value == theirs[key], key


def pair(*arguments: Any, **options: Any) -> tuple[Static, Dynamic]:
    return Static(*arguments, **options), Dynamic(*arguments, **options)


# The bits of dynamic mode.


@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize("cls", CLASSES)
def test_every_optimizer_has_the_bits_of_dynamic_mode(cls: str, dtype: str) -> None:
    others = FAMILIES[cls].options if cls in FAMILIES else {}
    for settings in (CLASSES[cls], CLASSES[cls] | others):
        agree(*pair(cls, settings, dtype))


CLIPS = {
    "value": Made("ClipGradByValue", 0.5),
    "norm": Made("ClipGradByNorm", 0.5),
    "global norm": Made("ClipGradByGlobalNorm", 1.5),
    "skipping": Made("ClipGradByGlobalNorm", 1.5, auto_skip_clip=True),
}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("cls", ["SGD", "AdamW", "Lamb"])
def test_clips(cls: str, clip: str) -> None:
    agree(*pair(cls, CLASSES[cls] | {"grad_clip": CLIPS[clip]}, "float32"))


@pytest.mark.parametrize("cls", FAMILIES)
def test_groups(cls: str) -> None:
    family = FAMILIES[cls]
    clip = Made("ClipGradByValue", 0.75)
    rows = groups(family, family.names, clip, {})
    agree(*pair(cls, family.base, "float32", family.names, groups=rows))


@pytest.mark.parametrize("decay", ["L1Decay", "L2Decay"])
def test_weight_decay_and_the_attributes_of_parameters(decay: str) -> None:
    static, dynamic = (
        made(
            "Momentum",
            CLASSES["Momentum"]
            | {"weight_decay": 0.25, "grad_clip": Made("ClipGradByGlobalNorm", 1.5)},
            "float32",
            attributes={
                "row": {"regularizer": getattr(paddle.regularizer, decay)(0.5)},
                "matrix": {"need_clip": False},
                "big": {"learning_rate": 0.5},
            },
        )
        for made in (Static, Dynamic)
    )
    agree(static, dynamic)
    assert type(static.optimizer.parameters[2].regularizer) is getattr(roofstep, decay)
    assert [p.need_clip for p in static.optimizer.parameters] == [True, True, True, False, True]
    assert [p.learning_rate for p in static.optimizer.parameters] == [1, 1, 1, 1, 0.5]


def test_schedules() -> None:
    """Ours and Paddle's, asked in every run; the user steps them."""
    for schedule in (
        roofstep.lr.ExponentialDecay(0.5, 0.75),
        roofstep.paddle.lr.ExponentialDecay(0.5, 0.75),
        paddle.optimizer.lr.ExponentialDecay(0.5, 0.75),
    ):
        static, dynamic = (
            made("Adam", {"learning_rate": copy.deepcopy(schedule)}, "float32")
            for made in (Static, Dynamic)
        )
        for step in STEPS:
            agree(static, dynamic, range(step, step + 1))
            assert static.optimizer.get_lr() == pytest.approx(0.5 * 0.75**step)
            for run in (static, dynamic):
                run.optimizer._learning_rate.step()


def test_settings_may_change_between_runs() -> None:
    static, dynamic = pair("AdamW", {}, "float64")
    agree(static, dynamic)
    for run in (static, dynamic):
        run.optimizer.set_lr(0.25)
        run.optimizer.param_groups[0]["beta1"] = 0.5
        run.optimizer.param_groups[0]["grad_clip"] = roofstep.ClipGradByGlobalNorm(1.0)
    agree(static, dynamic)
    for run in (static, dynamic):
        run.optimizer.set_lr_scheduler(roofstep.lr.ConstantLR(0.5))
    agree(static, dynamic)
    before = static.values()
    parameter = static.optimizer.parameters[1]
    parameter.trainable = False
    static.advance(0)
    kept = {name for name, value in static.values().items() if same(value, before[name])}
    assert kept == {parameter.name}


def same(a: Array, b: Array) -> bool:
    return a.tobytes() == b.tobytes()


class Halving(roofstep.ClipGradBase):
    """A user's own, which makes tensors."""

    def _dygraph_clip(self, params_grads: Any) -> Any:
        return [(p, g * paddle.full_like(g, 0.5)) for p, g in params_grads]


class TowardsOne(roofstep.WeightDecayRegularizer):
    def __call__(self, param: Any, grad: Any, block: Any = None) -> Any:
        return 0.5 * (param.data - 1)


def test_a_users_clip_and_regularizer() -> None:
    settings = {"grad_clip": Halving(), "weight_decay": TowardsOne()}
    agree(*pair("Momentum", settings, "float32"))


class PaddlesHalving(paddle.nn.clip.ClipGradBase):
    def _dygraph_clip(self, params_grads: Any) -> Any:
        return [(p, g * 0.5) for p, g in params_grads]


class PaddlesTowardsOne(paddle.regularizer.WeightDecayRegularizer):
    def __call__(self, param: Any, grad: Any, block: Any = None) -> Any:
        return 0.5 * (param - 1)


def test_paddles_clips_and_regularizers_are_taken() -> None:
    cases = [
        ({"grad_clip": PaddlesHalving(), "weight_decay": PaddlesTowardsOne()},) * 2,
        (
            {"grad_clip": paddle.nn.ClipGradByGlobalNorm(1.5)},
            {"grad_clip": roofstep.ClipGradByGlobalNorm(1.5)},
        ),
        (
            {"grad_clip": paddle.nn.ClipGradByNorm(0.5)},
            {"grad_clip": roofstep.ClipGradByNorm(0.5)},
        ),
        (
            {"grad_clip": paddle.nn.ClipGradByValue(0.5, -0.25)},
            {"grad_clip": roofstep.ClipGradByValue(0.5, -0.25)},
        ),
        (
            {"weight_decay": paddle.regularizer.L1Decay(0.5)},
            {"weight_decay": roofstep.L1Decay(0.5)},
        ),
        (
            {"weight_decay": paddle.regularizer.L2Decay(0.5)},
            {"weight_decay": roofstep.L2Decay(0.5)},
        ),
    ]
    for theirs, ours in cases:
        agree(Static("Momentum", theirs, "float32"), Dynamic("Momentum", ours, "float32"))


def test_a_clip_of_paddles_in_two_groups_is_one_norm() -> None:
    clip = paddle.nn.ClipGradByGlobalNorm(1.5)
    w, b = (roofstep.Parameter(np.ones(1)) for _ in range(2))
    rows = [{"params": [p], "grad_clip": clip} for p in (w, b)]
    optimizer = roofstep.SGD(1.0, rows)
    w.grad, b.grad = np.array([3.0]), np.array([4.0])
    optimizer.step()
    assert optimizer.last_grad_norm == 5.0
    state = optimizer.state_dict()
    assert [group["grad_clip"] for group in state["param_groups"]] == [0, 0]
    optimizer.set_state_dict(state)
    optimizer.step()
    assert optimizer.last_grad_norm == 5.0


class Comparable(paddle.nn.clip.ClipGradBase):  # type: ignore[misc]
    """A user's for Paddle, who has said when two are equal."""

    seen = 0

    def __eq__(self, other: object) -> bool:
        return type(other) is Comparable

    def _dygraph_clip(self, params_grads: Any) -> Any:
        self.seen = len(params_grads)
        return [(p, 0.5 * g) for p, g in params_grads]


def test_a_users_clip_for_paddle_is_called_once_and_let_go() -> None:
    clip = Comparable()
    tensors = [paddle.create_parameter([2], "float32") for _ in range(2)]
    optimizer = roofstep.SGD(0.5, [{"params": [t], "grad_clip": clip} for t in tensors])
    for tensor in tensors:
        tensor.grad = paddle.ones([2])
    optimizer.step()
    assert clip.seen == 2
    gone = weakref.ref(clip)
    del clip, optimizer
    gc.collect()
    assert gone() is None


def test_a_clip_of_paddles_may_change() -> None:
    """In one step as in the next, in both modes, and in what is saved."""
    for clip, change in [
        (paddle.nn.ClipGradByGlobalNorm(1.5), {"clip_norm": 0.5}),
        (paddle.nn.ClipGradByNorm(1.5), {"clip_norm": 0.5}),
        (paddle.nn.ClipGradByValue(1.5), {"max": 0.5, "min": -0.25}),
    ]:
        settings = {"learning_rate": 1.0, "grad_clip": clip}
        runs = pair("SGD", settings, "float32")
        agree(*runs)
        for name, value in change.items():
            setattr(clip, name, value)
        fresh = Dynamic("SGD", settings, "float32")
        for name, value in runs[1].values().items():
            fresh.parameters[name].set_value(value)
        agree(*runs, steps=range(1))
        fresh.advance(0)
        assert same_bits(runs[1].values(), fresh.values())
        state = runs[1].optimizer.state_dict()
        assert state["grad_clips"] == fresh.optimizer.state_dict()["grad_clips"]
        assert change.items() <= state["grad_clips"][0].items()
    clip.max = -1.0
    before = runs[1].values()
    with refused(ValueError, "min: expected at most max=-1.0"):
        runs[1].advance(1)
    assert same_bits(runs[1].values(), before)


def test_averaged_weights() -> None:
    static, dynamic = pair("Adam", {}, "float32")
    for run in (static, dynamic):
        run.optimizer.average_weights(0.5)
    agree(static, dynamic)
    stepped = static.values()
    with static.optimizer.averaged(), dynamic.optimizer.averaged():
        assert same_bits(static.values(), dynamic.values())
        assert not same_bits(static.values(), stepped)
    assert same_bits(static.values(), stepped)


def test_averages_are_of_the_memory_in_use() -> None:
    optimizer = (run := Static("SGD", {"learning_rate": 0.5}, "float32")).optimizer
    optimizer.average_weights(0.5)
    run.advance(0)
    other = paddle.base.core.DenseTensor()
    other.set(np.zeros((3, 5), "float32"), paddle.CPUPlace())
    with run.built():
        run.main.set_state_dict({"matrix": other}, run.scope)
    with refused(RuntimeError, "parameter 'matrix'", "run its program first"), optimizer.averaged():
        pass
    run.advance(1)  # in the same scope the weights may be others
    with optimizer.averaged():
        pass


def refused(error: type[BaseException], *parts: str) -> Any:
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


def test_states_go_from_one_mode_to_the_other() -> None:
    static, dynamic = pair("Adam", {"grad_clip": Made("ClipGradByNorm", 0.5)}, "float32")
    for step in STEPS:
        static.advance(step)
    for name, value in static.values().items():
        dynamic.parameters[name].set_value(value)
    dynamic.optimizer.set_state_dict(static.optimizer.state_dict())
    agree(static, dynamic)
    again = Static("Adam", {"grad_clip": Made("ClipGradByNorm", 0.5)}, "float32")
    again.optimizer.set_state_dict(dynamic.optimizer.state_dict())
    with static_mode():
        for name, value in dynamic.values().items():
            again.scope.find_var(name).get_tensor().set(value, paddle.CPUPlace())
    agree(again, dynamic)


# Paddle's own static mode.


# ASGD's gradients of the steps before are lost there: it writes them into copies.
@pytest.mark.parametrize("cls", [cls for cls in FAMILIES if cls != "ASGD"])
def test_paddles_own_static_mode(cls: str) -> None:
    family = FAMILIES[cls]
    cases: list[dict[str, Any]] = [family.base, family.base | family.options]
    if set(family.names_under_global_norm) == set(family.names):
        cases.append(family.base | {"grad_clip": Made("ClipGradByGlobalNorm", 1.5)})
    for settings in cases:
        settings = {k: v for k, v in settings.items() if k not in family.listed}
        if isinstance(clip := settings.get("grad_clip"), Made) and "Value" in repr(clip):
            del settings["grad_clip"]  # which Paddle's static mode lacks
        ours, theirs = (
            made(cls, settings, "float32", family.names) for made in (Static, StaticOfPaddle)
        )
        for step in STEPS:
            ours.advance(step)
            theirs.advance(step)
            close(ours.values(), theirs.values(), "float32", f"after step {step}")
        assert [p.name for p, _ in ours.result[1]] == [*family.names]
        assert {p.name for p, _ in theirs.result[1]} == {*family.names}


# What minimize takes and returns.


@pytest.mark.filterwarnings("ignore:When training, we now always track:UserWarning")
@pytest.mark.parametrize("of", [roofstep, roofstep.paddle], ids=["roofstep", "roofstep.paddle"])
def test_an_optimizer_without_parameters_takes_all_that_can_be_trained(of: Any) -> None:
    paddle.seed(3)
    with static_mode(), paddle.utils.unique_name.guard():
        main, startup = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(main, startup):
            x = paddle.static.data("x", [None, 3])
            inner = [paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4), paddle.nn.Linear(4, 1)]
            layer = paddle.nn.Sequential(*inner)
            layer[0].bias.stop_gradient = True
            loss = layer(x).square().mean()
            optimizer = of.Adam(0.01)
            operators, pairs = optimizer.minimize(loss)
        scope, executor = paddle.static.Scope(), paddle.static.Executor()
        with paddle.static.scope_guard(scope):
            executor.run(startup)
            bias = np.array(scope.find_var("linear_0.b_0").get_tensor()).copy()
            losses = [
                float(executor.run(main, {"x": np.ones((rows, 3), "float32")}, [loss])[0])
                for rows in (1, 7, 2, 5, 1, 3, 4, 6)  # batches of any size
            ]
            assert same(bias, np.array(scope.find_var("linear_0.b_0").get_tensor()))
    assert losses[-1] < losses[0]
    wanted = [f"{n}_0" for n in ("linear_0.w", "batch_norm1d_0.w", "batch_norm1d_0.b")]
    wanted += ["linear_1.w_0", "linear_1.b_0"]
    assert [p.name for p in optimizer.parameters] == [p.name for p, _ in pairs] == wanted
    assert [o.names for o in operators] == [(*wanted,)]
    assert optimizer.state_dict()["linear_1.b_0_step_0"] == 8


class Choosing(Static):
    """A run whose minimize has arguments."""

    def __init__(self, arguments: Callable[[Choosing], Mapping[str, Any]], **settings: Any) -> None:
        self._arguments = arguments
        super().__init__("SGD", {"learning_rate": 0.5, **settings}, "float32")

    def minimize(self) -> Any:
        return self.optimizer.minimize(self.loss, **self._arguments(self))

    def moved(self) -> set[str]:
        before = self.values()
        self.advance(5)
        return {name for name, value in self.values().items() if not same(value, before[name])}


@pytest.mark.parametrize("adopts", [False, True])
def test_which_parameters_are_updated(adopts: bool) -> None:
    every = {*SHAPES}
    settings = {"parameters": None} if adopts else {}
    cases: list[tuple[Callable[[Choosing], Mapping[str, Any]], set[str]]] = [
        (lambda run: {}, every),
        (lambda run: {"parameters": [run.parameters["row"], "big"]}, {"row", "big"}),
        (lambda run: {"no_grad_set": {run.parameters["row"]}}, every - {"row"}),
        (lambda run: {"no_grad_set": iter(["row", "big"])}, every - {"row", "big"}),
        (lambda run: {"no_grad_set": ["row", run.parameters["big"]]}, every - {"row", "big"}),
        (lambda run: {"parameters": ["row", "big"], "no_grad_set": ["big"]}, {"row"}),
    ]
    for arguments, wanted in cases:
        run = Choosing(arguments, **settings)
        assert {p.name for p, _ in run.result[1]} == wanted
        assert {p.name for p in run.optimizer.parameters} == (wanted if adopts else every)
        assert run.moved() == wanted


def test_parts_of_the_graph_are_left_out() -> None:
    """As in Paddle, no_grad_set may hold any value."""
    with static_mode(), paddle.static.program_guard(paddle.static.Program()):
        w = paddle.create_parameter([2], "float32", name="w_left")
        b = paddle.create_parameter([2], "float32", name="b_left")
        inner = w * 2.0
        pairs = roofstep.SGD(0.5).backward((inner + b).sum(), no_grad_set={inner})
        assert [p.name for p, _ in pairs] == ["b_left"]


def test_backward_and_apply_gradients() -> None:
    class InTwo(Static):
        def minimize(self) -> Any:
            pairs = self.optimizer.backward(self.loss, self.startup, callbacks=None)
            pairs = [(p, 0.5 * g) for p, g in pairs]
            return self.optimizer.apply_gradients([*pairs[1:], pairs[0]]), pairs

    settings = {"learning_rate": 0.5, "momentum": 0.0}
    run, half = InTwo("Momentum", settings, "float32"), Static("SGD", RATE, "float32")
    for step in STEPS:
        run.advance(step)
        half.advance(step)
        close(run.values(), half.values(), "float32")


RATE = {"learning_rate": 0.25}


def test_what_minimize_returned_cannot_be_fetched() -> None:
    run = Static("SGD", RATE, "float32")
    operators, pairs = run.result
    feed = {f"grad_of_{n}": g for n, g in gradients(0, "float32").items()}
    before = run.values()
    for wanted in ([run.result], [operators], operators):
        for fetch_list in (wanted, [run.loss, *wanted]):
            with (
                refused(TypeError, "minimize()", "Every", "the update", "fetch_list=[loss]"),
                static_mode(),
                paddle.static.scope_guard(run.scope),
            ):
                run.executor.run(run.main, feed=feed, fetch_list=fetch_list)
    assert repr(operators) == f"[Update({', '.join(p.name for p, _ in pairs)})]"
    assert same_bits(run.values(), before)
    # Values may be: those of parameters are of after the update.
    _, row, gradient = run.advance(0, pairs[2])
    assert same(row, run.values()["row"])
    assert same(gradient, gradients(0, "float32")["row"])


def test_other_programs_made_of_it() -> None:
    run = Static("SGD", RATE, "float32")
    feed = {f"grad_of_{n}": g for n, g in gradients(0, "float32").items()}
    before = run.values()
    with run.built(), paddle.static.scope_guard(run.scope):
        with pytest.raises(TypeError):  # Paddle has no clone for tests in its present IR
            run.main.clone(for_test=True)
        inputs = [op.result(0) for op in run.main.global_block().ops if op.name() == "pd_op.data"]
        test = paddle.static.normalize_program(run.main, inputs, [run.loss])
        run.executor.run(test, feed=feed)
        assert same_bits(run.values(), before)
        run.executor.run(run.main.clone(), feed=feed)
    assert not same_bits(run.values(), before)
    assert run.optimizer.state_dict()["row_step_0"] == 1


# Programs, scopes and startup programs.


def test_two_optimizers_in_one_program() -> None:
    """As for two networks that play against each other: each has its own parameters."""

    class Both(Static):
        def minimize(self) -> Any:
            self.other = roofstep.Momentum(0.5, 0.5)
            self.optimizer = roofstep.Adam(0.5)
            self.optimizer.minimize(self.loss, parameters=["row", "big"])
            return self.other.minimize(self.loss, parameters=["scalar", "single", "matrix"])

    run = Both("SGD", RATE, "float32")
    adam, momentum = (
        Dynamic("Adam", {"learning_rate": 0.5}, "float32"),
        Dynamic("Momentum", {"learning_rate": 0.5, "momentum": 0.5}, "float32"),
    )
    for step in STEPS:
        for one in (run, adam, momentum):
            one.advance(step)
    values, of_adam, of_momentum = run.values(), adam.values(), momentum.values()
    for name, value in values.items():
        assert same(value, (of_adam if name in ("row", "big") else of_momentum)[name])
    assert {p.name for p in run.optimizer.parameters} == {"row", "big"}


def test_one_optimizer_for_two_losses_and_two_programs() -> None:
    """Shared parameters are stepped twice; new ones become a group more."""

    class Twice(Static):
        def minimize(self) -> Any:
            self.optimizer = roofstep.SGD(0.25)
            self.optimizer.minimize(self.loss, parameters=["row", "big"])
            return self.optimizer.minimize(self.loss)

    run, once = Twice("SGD", RATE, "float64"), Static("SGD", RATE, "float64")
    before = run.values()
    for one in (run, once):
        one.advance(0)
    for name, value in run.values().items():
        factor = 2 if name in ("row", "big") else 1
        np.testing.assert_allclose(
            value - before[name], factor * (once.values()[name] - before[name]), atol=1e-14
        )
    assert [len(group["params"]) for group in run.optimizer.param_groups] == [2, 3]
    assert run.optimizer.state_dict()["big_step_0"] == 2
    # Another program with some of the parameters, in the same scope.
    main = paddle.static.Program()
    with static_mode(), paddle.static.scope_guard(run.scope):
        with paddle.static.program_guard(main, paddle.static.Program()):
            row = Static.parameter("row", np.zeros(7), None)
            run.optimizer.minimize((row * 1.0).sum())
        before = run.values()
        run.executor.run(main)
    np.testing.assert_array_equal(run.values()["row"], before["row"] - 0.25)
    assert same(run.values()["big"], before["big"])


def test_a_startup_program_begins_anew() -> None:
    static = Static("Adam", {}, "float32")
    first = [static.advance(step) and static.values() for step in STEPS]
    static.start()
    assert not any(key.endswith("step_0") for key in static.optimizer.state_dict())
    assert all(same_bits(static.advance(step) and static.values(), first[step]) for step in STEPS)
    # What is loaded after it, or before the first run, stays.
    saved = static.optimizer.state_dict()
    static.start()
    static.optimizer.set_state_dict(saved)
    static.advance(0)
    assert static.optimizer.state_dict()["row_step_0"] == len(STEPS) + 1
    other = Static("Adam", {}, "float32")
    other.optimizer.set_state_dict(saved)
    other.start()
    other.advance(0)
    assert other.optimizer.state_dict()["row_step_0"] == len(STEPS) + 1


def test_another_scope_begins_anew_or_is_refused() -> None:
    run = Static("Adam", {}, "float32")
    first = run.scope
    fresh = [run.advance(step) and run.values() for step in STEPS]
    run.scope = paddle.static.Scope()
    run.start()  # leaves the states to the scope of the last step
    assert run.optimizer.state_dict()["row_step_0"] == len(STEPS)
    second, run.scope = run.scope, first
    run.advance(0)
    assert run.optimizer.state_dict()["row_step_0"] == len(STEPS) + 1
    run.scope = second
    assert all(same_bits(run.advance(step) and run.values(), fresh[step]) for step in STEPS)
    run.scope, before = first, run.optimizer.state_dict()
    values = run.values()
    with pytest.raises(SystemError):
        run.advance(0)
    with refused(RuntimeError, "parameter 'scalar'", "another scope", "startup", "load a state"):
        raise run.optimizer.last_error
    assert same_bits(run.values(), values)
    assert run.optimizer.state_dict().keys() == before.keys()
    run.optimizer.set_state_dict(run.optimizer.state_dict())  # takes the states along
    run.advance(0)
    assert run.optimizer.last_error is None
    assert run.optimizer.state_dict()["row_step_0"] == len(STEPS) + 1


def test_scopes_by_turns() -> None:
    """Without states there is nothing that belongs to one scope; an average is a state."""
    run, alone = (Static("SGD", {"learning_rate": 0.5}, "float32") for _ in range(2))
    scopes = [run.scope, paddle.static.Scope()]
    run.scope = scopes[1]
    run.start()
    for step in STEPS:
        alone.advance(step)
        for run.scope in scopes:
            run.advance(step)
            assert same_bits(run.values(), alone.values())
    run.optimizer.average_weights(0.5)
    run.advance(0)
    run.scope = scopes[0]
    with pytest.raises(SystemError):
        run.advance(0)
    with refused(RuntimeError, "another scope", "states belong"):
        raise run.optimizer.last_error


def test_a_scope_by_argument() -> None:
    """Of which nothing is known outside of the run."""
    run, scope = Static("Adam", {}, "float32"), paddle.static.Scope()
    feed = {f"grad_of_{n}": g for n, g in gradients(0, "float32").items()}
    with static_mode():
        run.executor.run(run.startup, scope=scope)
        run.optimizer.average_weights(0.5)
        for _ in range(3):
            run.executor.run(run.main, feed=feed, fetch_list=[], scope=scope)
    saved = run.optimizer.state_dict()
    assert saved["row_step_0"] == 3
    run.optimizer.set_state_dict(saved)
    with refused(RuntimeError, "scope_guard(scope)"), run.optimizer.averaged():
        pass
    run.scope = scope
    run.advance(0)  # which is the remedy
    with run.optimizer.averaged():
        pass


def test_the_remedy_for_a_scope_by_argument() -> None:
    """The memory is that of the runs before, of which nothing was known."""
    run = Static("SGD", {"learning_rate": 0.5}, "float32")
    run.optimizer.average_weights(0.5)
    feed = {f"grad_of_{n}": g for n, g in gradients(0, "float32").items()}
    with static_mode():
        run.executor.run(run.main, feed=feed, fetch_list=[], scope=run.scope)
    with refused(RuntimeError, "scope_guard(scope)"), run.optimizer.averaged():
        pass
    run.advance(0)
    stepped = run.values()
    with run.optimizer.averaged():
        assert not same_bits(run.values(), stepped)


def test_states_that_came_late_need_no_values_to_be_saved() -> None:
    run = Static("Adam", {}, "float32")
    feed = {f"grad_of_{n}": g for n, g in gradients(0, "float32").items()}
    with static_mode():
        run.executor.run(run.main, feed=feed, fetch_list=[], scope=run.scope)
    plain = run.optimizer.state_dict().keys()
    run.optimizer.param_groups[0]["amsgrad"] = True
    run.optimizer.average_weights(0.5)
    saved = run.optimizer.state_dict()
    assert {key.partition("_")[2] for key in saved.keys() - plain} == {"moment2_max_0"}
    np.testing.assert_array_equal(saved["row_moment2_max_0"], np.zeros(SHAPES["row"]))


# Errors in a run.


class Failing(roofstep.ClipGradBase):
    """Fails as told."""

    error: BaseException | None = None
    spoils = False

    def _dygraph_clip(self, params_grads: Any) -> Any:
        if self.error is not None:
            raise self.error
        return [(p, g.flatten()[:1] if self.spoils else g) for p, g in params_grads]


@pytest.fixture
def log() -> Iterator[list[logging.LogRecord]]:
    """What is logged; Paddle's own output of it is left out."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("roofstep.paddle")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def test_an_error_in_a_step_writes_nothing_and_stops_the_run(log: list[Any]) -> None:
    clip = Failing()
    run = Static("Adam", {"grad_clip": clip}, "float32")
    run.advance(0)
    before, state = run.values(), run.optimizer.state_dict()
    assert run.optimizer.last_error is None

    def fails(kind: type[BaseException], *parts: str) -> None:
        with pytest.raises(SystemError):
            run.advance(1)
        with refused(kind, *parts):
            raise run.optimizer.last_error
        assert log.pop().exc_info[1] is run.optimizer.last_error
        assert same_bits(run.values(), before)
        after = run.optimizer.state_dict()
        assert all(same(after[k], v) for k, v in state.items() if isinstance(v, np.ndarray))

    clip.error = KeyError("mine")
    fails(KeyError, "mine")
    clip.error = None
    clip.spoils = True
    fails(ValueError, "what Failing returned", "'scalar'", "shape")
    clip.spoils = False
    run.optimizer.param_groups[0]["beta1"] = 2.0
    with pytest.raises(SystemError):
        run.advance(1)
    with refused(ValueError, "beta1", "2.0"):
        raise run.optimizer.last_error
    assert same_bits(run.values(), before)
    run.optimizer.param_groups[0]["beta1"] = 0.875
    run.advance(1)
    assert run.optimizer.last_error is None
    assert not same_bits(run.values(), before)
    assert paddle.in_dynamic_mode.__call__() is not None


def test_a_step_is_alone(log: list[Any]) -> None:
    """It runs in a thread of Paddle's, and refuses what asks for its states meanwhile."""
    threads = []

    class Asking(roofstep.ClipGradBase):
        def _dygraph_clip(self, params_grads: Any) -> Any:
            threads.append(threading.get_ident())
            run.optimizer.state_dict()
            return params_grads

    run = Static("Adam", {"grad_clip": Asking()}, "float32")
    with pytest.raises(SystemError):
        run.advance(0)
    with refused(RuntimeError, "is being stepped"):
        raise run.optimizer.last_error
    assert threads[0] != threading.get_ident()
    assert log


def test_the_original_error_on_request(log: list[Any]) -> None:
    clip = Failing()
    run = Static("SGD", {"grad_clip": clip}, "float32")
    theirs = paddle.static.Executor.run
    clip.error = KeyError("mine")
    for _ in range(2):
        roofstep.paddle.raise_step_errors()
        with refused(KeyError, "mine"):
            run.advance(0)
    clip.error = None
    run.advance(0)
    with pytest.raises(TypeError, match="feed"), static_mode():
        run.executor.run(run.main, feed=3)
    mine = paddle.static.Executor.run
    try:
        paddle.static.Executor.run = theirs_too = lambda *a, **k: mine(*a, **k)
        with refused(RuntimeError, "Executor.run", "take that back first"):
            roofstep.paddle.raise_step_errors(False)
        assert paddle.static.Executor.run is theirs_too
    finally:
        paddle.static.Executor.run = mine
    for _ in range(2):
        roofstep.paddle.raise_step_errors(False)
        assert paddle.static.Executor.run is theirs
    with refused(TypeError, "enabled"):
        roofstep.paddle.raise_step_errors(1)  # type: ignore[arg-type]


def test_the_original_error_whatever_runs_meanwhile(log: list[Any]) -> None:
    """Each run raises that of its own program, though another begins or has failed."""
    clips = [Failing(), Failing()]
    runs = [Static("SGD", {"grad_clip": clip}, "float32") for clip in clips]
    for clip, error in zip(clips, (KeyError("first"), KeyError("second")), strict=True):
        clip.error = error
    began, executor = [], runs[0].executor

    class Beginning(logging.Handler):
        """Begins another run, when an error has been noted and before Paddle returns."""

        def emit(self, record: Any) -> None:
            def begin() -> None:
                with contextlib.suppress(Exception):  # it does not get far
                    executor.run(runs[0].main)
                began.append(record)

            other = threading.Thread(target=begin)
            other.start()
            other.join()

    handler = Beginning()
    with pytest.raises(SystemError):
        runs[1].advance(0)  # whose error nothing has asked for
    roofstep.paddle.raise_step_errors()
    logging.getLogger("roofstep.paddle").addHandler(handler)
    try:
        for i in (0, 1, 0):
            with refused(KeyError, ("first", "second")[i]):
                runs[i].advance(0)
    finally:
        logging.getLogger("roofstep.paddle").removeHandler(handler)
        roofstep.paddle.raise_step_errors(False)
    assert len(began) == 3


# The order of operators.


def test_no_reader_is_early_or_late() -> None:
    """Slow readers off the gradient path, before the update and after it, over 100 runs."""
    n, layers = 160, 6
    main, startup = paddle.static.Program(), paddle.static.Program()
    with static_mode(), paddle.static.scope_guard(paddle.static.Scope()):
        with paddle.static.program_guard(main, startup):
            ones = paddle.nn.initializer.Constant(1.0)
            weights = [
                paddle.create_parameter(
                    [n, n], "float32", attr=paddle.ParamAttr(name=f"order_{i}", initializer=ones)
                )
                for i in range(layers)
            ]
            slow = [paddle.matmul(w, w) / n for w in weights]
            early = [(s.max() + w.min()) for s, w in zip(slow, weights, strict=True)]
            loss = paddle.add_n([w.sum() for w in weights])
            optimizer = roofstep.SGD(1.0)
            optimizer.minimize(loss, parameters=[weights[i] for i in (3, 0, 5, 1)])
            optimizer.minimize(loss, parameters=[weights[i] for i in (2, 4)])
            late = [(paddle.matmul(w, w) / n).max() + w.min() for w in weights]
            outside = [w.max() for w in weights]
        executor = paddle.static.Executor()
        executor.run(startup)
        for step in range(100):
            found = executor.run(main, fetch_list=[*early, *late, *outside, *weights])
            old, new = 1.0 - step, -float(step)
            assert [float(x) for x in found[:layers]] == [old * old + old] * layers, step
            assert [float(x) for x in found[layers : 2 * layers]] == [new * new + new] * layers
            assert [float(x) for x in found[2 * layers : 3 * layers]] == [new] * layers
            assert all((w == new).all() for w in found[3 * layers :])


# Refusals.


def build(act: Callable[..., Any]) -> Any:
    """What a function does with a parameter and a loss of it, in a program."""
    main = paddle.static.Program()
    with static_mode(), paddle.static.program_guard(main, paddle.static.Program()):
        w = paddle.create_parameter([2, 3], "float32", name="w_refused")
        return act(w, w.sum())


def test_refusals_of_minimize() -> None:
    sgd = roofstep.SGD(0.5)
    cases: list[tuple[type[Exception], tuple[str, ...], Callable[[Any, Any], Any]]] = [
        (ValueError, ("loss", "one element", "[2, 3]", "mean()"), lambda w, loss: sgd.minimize(w)),
        (
            ValueError,
            ("loss", "depends on no parameter"),
            lambda w, loss: sgd.minimize(paddle.ones([1])),
        ),
        (
            ValueError,
            ("parameters", "'nix'", "w_refused"),
            lambda w, loss: sgd.minimize(loss, parameters=["nix"]),
        ),
        (
            ValueError,
            ("no_grad_set", "'nix'", "w_refused"),
            lambda w, loss: sgd.minimize(loss, no_grad_set={"nix"}),
        ),
        (
            ValueError,
            ("parameters", "Value(", "no parameter of the program", "w_refused"),
            lambda w, loss: sgd.minimize(loss, parameters=[w * 2]),
        ),
        (
            ValueError,
            ("no_grad_set", "'3' is no parameter"),
            lambda w, loss: sgd.minimize(loss, no_grad_set=[3]),
        ),
        (
            TypeError,
            ("parameters", "a list", "Value"),
            lambda w, loss: sgd.minimize(loss, parameters=w),
        ),
        (
            ValueError,
            ("is left to be updated", "no_grad_set"),
            lambda w, loss: sgd.minimize(loss, no_grad_set=[w]),
        ),
        (
            ValueError,
            ("callbacks", "None"),
            lambda w, loss: sgd.backward(loss, callbacks=[print]),
        ),
        (
            TypeError,
            ("params_grads", "values of a program", "float"),
            lambda w, loss: sgd.apply_gradients([(w, 1.0)]),
        ),
        (
            ValueError,
            ("params_grads", "a gradient"),
            lambda w, loss: sgd.apply_gradients([(w, None)]),
        ),
        (
            ValueError,
            ("w_refused", "two gradients", "add them up"),
            lambda w, loss: sgd.apply_gradients([(w, w), (w, w)]),
        ),
        (
            ValueError,
            ("'w_refused'", "no parameter of this optimizer", "other_refused"),
            lambda w, loss: roofstep.SGD(0.5, [other()]).apply_gradients([(w, w)]),
        ),
        (
            ValueError,
            ("loss", "depends on no parameter"),
            lambda w, loss: roofstep.SGD(0.5, [other("elsewhere")]).minimize(
                loss, no_grad_set=["w_refused"]
            ),
        ),
        (
            ValueError,
            ("'w_refused'", "float32 of shape (2, 3)", "float64 of shape (5,)"),
            lambda w, loss: roofstep.SGD(0.5, [w]).minimize(of_another_program()),
        ),
        (
            ValueError,
            ("'w_refused'", "a tensor outside of the program"),
            lambda w, loss: roofstep.SGD(
                0.5, [roofstep.Parameter(np.ones(2), "w_refused")]
            ).minimize(loss),
        ),
        (
            ValueError,
            ("parameter 'half_refused'", "float32 or float64", "float16"),
            lambda w, loss: roofstep.SGD(
                0.5, [paddle.create_parameter([2], "float16", name="half_refused")]
            ),
        ),
        (
            ValueError,
            ("parameters", "parameters of a program", "layer.parameters()"),
            lambda w, loss: roofstep.SGD(0.5, [w * 2]),
        ),
        (
            NotImplementedError,
            ("LBFGS has no minimize()", "step(function)"),
            lambda w, loss: roofstep.LBFGS(parameters=[w]).minimize(loss),
        ),
    ]
    for kind, parts, act in cases:
        with refused(kind, *parts):
            build(act)
        assert not sgd.parameters


def other(name: str = "other_refused") -> Any:
    return paddle.create_parameter([2], "float32", name=name)


def of_another_program() -> Any:
    program = paddle.static.Program()
    with paddle.static.program_guard(program, paddle.static.Program()):
        loss = paddle.create_parameter([5], "float64", name="w_refused").sum()
    kept.append(program)  # its values end the process without it
    return loss


kept: list[Any] = []


def test_one_parameter_may_stand_for_a_group() -> None:
    optimizer = build(lambda w, loss: roofstep.SGD(0.5, [{"params": w}]))
    assert [p.name for p in optimizer.parameters] == ["w_refused"]


def test_methods_that_a_program_takes_the_place_of() -> None:
    run = Static("Adam", {}, "float32")
    for method in (run.optimizer.step, run.optimizer.clear_grad, run.optimizer.zero_grad):
        with refused(RuntimeError, "'scalar'", "static program", "Executor.run()"):
            method()
    with refused(TypeError, "'scalar'", "static program", "state_dict()"):
        copy.deepcopy(run.optimizer)


def test_the_former_ir_is_refused() -> None:
    code = """
        import warnings; warnings.simplefilter("ignore")
        import paddle, roofstep
        paddle.enable_static()
        x = paddle.static.data("x", [2, 3])
        loss = paddle.nn.Linear(3, 1)(x).mean()
        for act in (
            lambda: roofstep.Adam(0.1).minimize(loss),
            lambda: roofstep.Adam(0.1).backward(loss),
            lambda: roofstep.Adam(0.1).apply_gradients([(loss, loss)]),
            lambda: roofstep.Adam(0.1, parameters=[loss]),
        ):
            try:
                act()
            except TypeError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "FLAGS_enable_pir_api": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("former IR" in line and "FLAGS_enable_pir_api" in line for line in lines), lines
