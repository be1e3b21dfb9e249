"""Paddle's own machinery around roofstep: paddle.Model, GradScaler, schedules, .pdopt both ways."""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roofstep
import roofstep.paddle
from harness import BARS, PADDLE, SCHEDULES, Array, Made, Paddles, Run, close, paddle
from programs import Dynamic, StaticOfPaddle, static_mode
from table import FAMILIES

# Paddle's backward pass and paddle.Model warn of themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning"),
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning"),
]

NAMES = [name for name in roofstep.paddle.__all__ if name[0].isupper()]
STEPS = range(5)


@pytest.fixture(autouse=True)
def names() -> Iterator[None]:
    """Layers get the same names in every test."""
    with paddle.utils.unique_name.guard():
        yield


def refused(error: type[Exception], *parts: str) -> Any:
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


# The classes.


def test_every_optimizer_is_there_but_one() -> None:
    """LBFGS evaluates the loss itself, for which nothing of Paddle's machinery has a place."""
    every = {
        name
        for name in roofstep.__all__
        if inspect.isclass(cls := getattr(roofstep, name)) and issubclass(cls, roofstep.Optimizer)
    }
    assert {*NAMES} == every - {"Optimizer", "LBFGS"}


@pytest.mark.parametrize("name", NAMES)
def test_a_class_is_both_libraries(name: str) -> None:
    cls, ours = getattr(roofstep.paddle, name), getattr(roofstep, name)
    assert issubclass(cls, ours)
    assert issubclass(cls, paddle.optimizer.Optimizer)
    assert cls.__name__ == name
    assert inspect.signature(cls) == inspect.signature(ours)
    assert cls.__doc__ == inspect.getdoc(ours)
    layer = paddle.nn.Linear(2, 1)
    optimizer = cls(learning_rate=0.125, parameters=layer.parameters())
    assert optimizer._parameter_list[0] is layer.weight
    again = copy.deepcopy(optimizer)
    assert type(again) is cls
    assert again.get_lr() == 0.125


@pytest.mark.parametrize("name", NAMES)
def test_every_method_of_paddles_is_ours_or_not_there(name: str) -> None:
    cls = getattr(roofstep.paddle, name)
    optimizer = cls(learning_rate=0.125, parameters=paddle.nn.Linear(2, 1).parameters())
    absent = set()
    for method in vars(paddle.optimizer.Optimizer):
        if method.startswith("__"):
            continue
        if hasattr(optimizer, method):
            home = next(base for base in cls.__mro__ if method in vars(base))
            assert home.__module__.startswith("roofstep."), method
        else:
            absent.add(method)
    assert {"append_regularization_ops", "_create_accumulators", "_append_optimize_op"} < absent
    assert not absent & {"step", "minimize", "clear_grad", "state_dict", "set_lr", "get_lr"}
    for of in (optimizer, cls):
        with refused(AttributeError, name, "has no 'need_refuse'", "documented methods"):
            of.need_refuse()


@pytest.mark.parametrize("name", NAMES)
def test_every_attribute_of_paddles_is_ours_or_refused_with_a_sentence(name: str) -> None:
    theirs, ours = (
        getattr(of, name, of.Adam)(
            learning_rate=0.125, parameters=paddle.nn.Linear(2, 1).parameters()
        )
        for of in (paddle.optimizer, roofstep.paddle)
    )
    absent = {attribute for attribute in vars(theirs) if not hasattr(ours, attribute)}
    assert {"regularization", "type", "_accumulators", "_master_weights", "helper"} <= absent
    assert "_learning_rate_map" in absent
    for attribute in absent:
        with refused(AttributeError, f"{name} of roofstep.paddle", repr(attribute), "param_groups"):
            getattr(ours, attribute)
    assert "_grad_clip" not in absent


def test_parameters_are_not_put_in_by_the_back_door() -> None:
    layer = paddle.nn.Linear(2, 1)
    optimizer = roofstep.paddle.SGD(0.5, layer.parameters())
    with refused(AttributeError, "_parameter_list", "add_param_group()"):
        optimizer._parameter_list = layer.parameters()
    assert len(optimizer.parameters) == 2


# paddle.Model.


class Digits(paddle.io.Dataset):  # type: ignore[misc]
    """Something that can be learnt."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.x = random.standard_normal((64, 4)).astype("float32")
        self.y = (self.x.sum(1) > 0).astype("int64")

    def __getitem__(self, i: int) -> Any:
        return self.x[i], self.y[i : i + 1]

    def __len__(self) -> int:
        return 64


Library = Any


class Fitting:
    """A model and its optimizer, from one library, ready to fit."""

    def __init__(self, library: Library, rate: Any, static: bool = False, **settings: Any) -> None:
        paddle.seed(3)
        inner = [paddle.nn.Linear(4, 8), paddle.nn.Tanh(), paddle.nn.Linear(8, 2)]
        self.net = paddle.nn.Sequential(*inner)
        specs = [paddle.static.InputSpec([None, 4], "float32", "x")] if static else None
        labels = [paddle.static.InputSpec([None, 1], "int64", "y")] if static else None
        self.model = paddle.Model(self.net, specs, labels)
        self.optimizer = library.Adam(rate, parameters=self.net.parameters(), **settings)
        metric = paddle.metric.Accuracy()
        self.model.prepare(self.optimizer, paddle.nn.CrossEntropyLoss(), metric)

    def fit(self, epochs: int = 3, **options: Any) -> dict[str, float]:
        data = Digits()
        self.model.fit(data, data, 16, epochs, verbose=0, shuffle=False, **options)
        found = self.model.evaluate(data, batch_size=16, verbose=0)
        return {"loss": found["loss"][0], "acc": float(found["acc"])}

    def values(self) -> list[Array]:
        return [parameter.numpy() for parameter in self.net.parameters()]


def rates(library: Library) -> Any:
    return (library.lr if library is not roofstep else roofstep.paddle.lr).StepDecay(0.125, 3, 0.5)


OURS = pytest.mark.parametrize("library", [roofstep, roofstep.paddle], ids=["plain", "paddle"])


@OURS
@pytest.mark.parametrize("rate", ["number", "ours", "theirs"])
def test_a_model_is_fitted(library: Library, rate: str) -> None:
    """With a metric and the callback that steps schedules, to Paddle's numbers."""

    def of(which: Library) -> Any:
        if rate == "number":
            return 0.125
        return rates(paddle.optimizer if rate == "theirs" else which)

    found = [
        (one := Fitting(which, of(which))).fit() | {"rate": one.optimizer.get_lr()}
        for which in (library, paddle.optimizer)
    ]
    assert found[0]["acc"] > 0.9
    assert found[0]["rate"] == (0.125 if rate == "number" else 0.125 / 2**4)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_schedule_that_callbacks_would_not_step_is_refused() -> None:
    layer = paddle.nn.Linear(2, 1)
    plain = roofstep.lr.StepDecay(0.5, 3)
    with refused(TypeError, "learning_rate", "StepDecay", "roofstep.paddle.lr"):
        roofstep.paddle.Adam(plain, parameters=layer.parameters())
    optimizer = roofstep.paddle.Adam(0.5, parameters=layer.parameters())
    with refused(TypeError, "learning_rate", "StepDecay", "roofstep.paddle.lr"):
        optimizer.set_lr_scheduler(plain)
    assert optimizer.get_lr() == 0.5
    optimizer.set_lr_scheduler(roofstep.paddle.lr.StepDecay(0.25, 3))
    assert optimizer.get_lr() == 0.25


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_a_model_in_mixed_precision(level: str) -> None:
    """Of which Paddle leaves float32 on CPUs."""
    data = Digits()
    found = []
    for library in (roofstep.paddle, paddle.optimizer):
        clip = (roofstep if library is roofstep.paddle else paddle.nn).ClipGradByGlobalNorm(0.5)
        one = Fitting(library, 0.125, grad_clip=clip)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it makes no effect
            one.model.prepare(one.optimizer, paddle.nn.CrossEntropyLoss(), amp_configs=level)
            found.append([one.model.train_batch([data.x], [data.y[:, None]])[0] for _ in range(3)])
    np.testing.assert_allclose(*found, rtol=1e-5)
    assert found[0][2] < found[0][0]


def test_the_clip_is_shown_to_paddle_as_its_own() -> None:
    class Own(roofstep.ClipGradBase):
        def _dygraph_clip(self, params_grads: Any) -> Any:
            return params_grads

    class Theirs(paddle.nn.clip.ClipGradBase):  # type: ignore[misc]
        pass

    def shown(clip: Any) -> Any:
        layer = paddle.nn.Linear(2, 1)
        return roofstep.paddle.SGD(0.5, layer.parameters(), grad_clip=clip)._grad_clip

    for name, arguments in [
        ("ClipGradByValue", (0.5, -0.25)),
        ("ClipGradByNorm", (0.5,)),
        ("ClipGradByGlobalNorm", (0.5, "group", True)),
    ]:
        theirs = getattr(paddle.nn, name)(*arguments)
        clip = shown(getattr(roofstep, name)(*arguments))
        assert type(clip) is type(theirs)
        assert vars(clip) == vars(theirs)
    for clip in (None, Own(), Theirs()):
        assert shown(clip) is clip
    one = Fitting(roofstep.paddle, 0.125, grad_clip=roofstep.ClipGradByValue(0.5))
    with refused(AssertionError, "ClipGradByNorm and ClipGradByGlobalNorm"):
        one.model.prepare(one.optimizer, paddle.nn.CrossEntropyLoss(), amp_configs="O2")


def test_gradients_are_accumulated() -> None:
    losses = [
        Fitting(library, 0.125).fit(accumulate_grad_batches=2)["loss"]
        for library in (roofstep.paddle, paddle.optimizer)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@OURS
def test_a_checkpoint_of_a_model(library: Library, tmp_path: Path) -> None:
    """Fitting goes on from it bit for bit, in a model that has not been fitted."""
    one = Fitting(library, rates(library))
    one.fit(2, callbacks=[paddle.callbacks.ModelCheckpoint(1, str(tmp_path))])
    assert (tmp_path / "final.pdopt").exists()
    with paddle.utils.unique_name.guard():
        other = Fitting(library, rates(library))
    other.model.load(str(tmp_path / "final"))
    assert one.fit(2) == other.fit(2)
    for a, b in zip(one.values(), other.values(), strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_checkpoint_that_paddle_wrote(tmp_path: Path) -> None:
    theirs = Fitting(paddle.optimizer, rates(paddle.optimizer))
    theirs.fit(2, save_dir=str(tmp_path))
    with paddle.utils.unique_name.guard():
        ours = Fitting(roofstep.paddle, rates(roofstep.paddle))
    ours.model.load(str(tmp_path / "final"))
    assert ours.optimizer.state_dict()["linear_0.w_0_step_0"] == 8
    assert ours.fit(2) == pytest.approx(theirs.fit(2), rel=1e-4)


def test_a_second_name_is_no_second_state() -> None:
    """paddle.Model puts states under wrong names too; only the very same objects pass."""
    w = roofstep.Parameter(np.ones(2), "w")
    optimizer = roofstep.Momentum(0.5, parameters=[w])
    w.grad = np.ones(2)
    optimizer.step()
    state = optimizer.state_dict()
    optimizer.set_state_dict({**state, "w__elocity_0": state["w_velocity_0"]})
    with refused(ValueError, "'w__elocity_0' belongs to no parameter"):
        optimizer.set_state_dict({**state, "w__elocity_0": state["w_velocity_0"].copy()})


@OURS
def test_reduce_lr_on_plateau(library: Library) -> None:
    """It takes effect, unlike in Paddle; see docs/differences-from-paddle.md."""
    callback = paddle.callbacks.ReduceLROnPlateau("loss", 0.5, 1, 0, min_delta=10.0)
    one, other = Fitting(library, 0.125), Fitting(library, 0.125)
    one.fit(4, callbacks=[callback])
    assert one.optimizer.get_lr() < 0.125
    assert one.optimizer.state_dict()["learning_rate"] == one.optimizer.get_lr()
    other.fit(4)
    assert one.values()[0].tobytes() != other.values()[0].tobytes()


@OURS
def test_a_model_is_fitted_in_static_mode(library: Library) -> None:
    """Where paddle.Model trains a copy of the program, and evaluates others."""
    dynamic = Fitting(library, rates(library))
    begin = [value.copy() for value in dynamic.values()]
    found = dynamic.fit()
    with paddle.utils.unique_name.guard(), static_mode():
        scope = paddle.static.Scope()
        main, startup = paddle.static.Program(), paddle.static.Program()
        with paddle.static.scope_guard(scope), paddle.static.program_guard(main, startup):
            static = Fitting(library, rates(library), static=True)
            names = [parameter.name for parameter in static.net.parameters()]
            for name, value in zip(names, begin, strict=True):
                scope.find_var(name).get_tensor().set(value, paddle.CPUPlace())
            in_static = static.fit()
    assert in_static == pytest.approx(found, rel=1e-4)
    assert static.optimizer.get_lr() == 0.125 / 2**4
    assert static.optimizer.state_dict()[f"{names[0]}_step_0"] == 12


# paddle.amp.GradScaler.


@pytest.fixture
def scaler(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Any]:
    """Makes one that is enabled, of which Paddle makes none on CPUs.

    Its scale is fixed, since with NumPy 2.4 Paddle fails in changing it.
    """

    def make(scale: float) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr("paddle.amp.grad_scaler.in_dynamic_mode", lambda: False)
            made = paddle.amp.GradScaler(init_loss_scaling=scale, use_dynamic_loss_scaling=False)
        assert made.is_enable()
        return made

    return make


def scaled(library: Library, how: str, scaler: Any, **settings: Any) -> Any:
    """Steps by a scaled loss, in the fourth of which a gradient is infinite."""
    paddle.seed(5)
    with paddle.utils.unique_name.guard():
        layer = paddle.nn.Linear(3, 2)
        optimizer = library.Momentum(0.125, parameters=layer.parameters(), **settings)
    norms = []
    for step in range(6):
        factor = 1e38 if step == 3 else 1.0
        loss = layer(paddle.full([4, 3], step + 1.0)).square().mean() * factor
        scaled_loss = scaler.scale(loss)
        scaled_loss.backward()
        if how == "minimize":
            scaler.minimize(optimizer, scaled_loss)
        else:
            if how == "unscale_":
                scaler.unscale_(optimizer)
                norms.append(layer.weight.grad.norm().item())
            scaler.step(optimizer)
            scaler.update()
        optimizer.clear_grad()
    return scaler, norms, [parameter.numpy() for parameter in layer.parameters()]


@pytest.mark.parametrize("how", ["step", "unscale_", "minimize"])
def test_grad_scaler(how: str, scaler: Callable[[float], Any]) -> None:
    """A step with an infinite gradient is left out."""
    for settings in ({}, {"grad_clip": Made("ClipGradByGlobalNorm", 1.0)}):
        found = []
        for which, home in ((roofstep.paddle, roofstep), (paddle.optimizer, PADDLE)):
            clip = settings.get("grad_clip")
            own = {"grad_clip": clip.of(home)} if isinstance(clip, Made) else {}
            found.append(scaled(which, how, scaler(1024.0), **own))
        (ours, norms, values), (theirs, their_norms, their_values) = found
        assert ours._scale.item() == theirs._scale.item() == 1024.0
        np.testing.assert_allclose(norms, their_norms, rtol=2e-6)
        assert len(norms) == (6 if how == "unscale_" else 0)
        for value, expected in zip(values, their_values, strict=True):
            assert np.isfinite(value).all()
            np.testing.assert_allclose(value, expected, rtol=2e-6)


def test_grad_scaler_and_groups(scaler: Callable[[float], Any]) -> None:
    paddle.seed(5)
    layer = paddle.nn.Linear(3, 2)
    groups = [
        {"params": [layer.weight], "learning_rate": 0.5},
        {"params": [layer.bias], "weight_decay": 0.5},
    ]
    optimizer = roofstep.paddle.SGD(0.5, groups)
    eight = scaler(8.0)
    before = [parameter.numpy() for parameter in (layer.weight, layer.bias)]
    eight.scale(layer.weight.sum() + layer.bias.sum()).backward()
    eight.step(optimizer)
    eight.update()
    np.testing.assert_allclose(layer.weight.numpy(), before[0] - 0.25, rtol=1e-6)
    np.testing.assert_allclose(
        layer.bias.numpy(), before[1] - 0.5 * (1 + 0.5 * before[1]), rtol=1e-6
    )


@OURS
def test_the_scaler_that_paddle_makes_on_cpus(library: Library) -> None:
    """It warns, and leaves all as it is."""
    layer = paddle.nn.Linear(3, 2)
    optimizer = library.SGD(0.5, layer.parameters())
    with pytest.warns(UserWarning, match="it makes no effect"):
        scaler = paddle.amp.GradScaler()
    before = layer.bias.numpy()
    scaler.scale(layer.bias.sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    np.testing.assert_array_equal(layer.bias.numpy(), before - 0.5)


# Schedules.


def test_every_schedule_is_there() -> None:
    assert {*roofstep.paddle.lr.__all__} == {*roofstep.lr.__all__} - {"preview"}
    assert {*SCHEDULES} <= {*roofstep.paddle.lr.__all__}


@pytest.mark.parametrize("name", roofstep.paddle.lr.__all__)
def test_a_schedule_is_both_libraries(name: str) -> None:
    cls, ours = getattr(roofstep.paddle.lr, name), getattr(roofstep.lr, name)
    assert issubclass(cls, ours)
    assert issubclass(cls, paddle.optimizer.lr.LRScheduler)
    assert inspect.signature(cls) == inspect.signature(ours)
    if name != "LRScheduler":
        assert cls.__doc__ == inspect.getdoc(ours)
        assert issubclass(cls, roofstep.paddle.lr.LRScheduler)
    for method in vars(paddle.optimizer.lr.LRScheduler):
        if not method.startswith("__") or method in ("__call__", "__init__"):
            home = next(base for base in cls.__mro__ if method in vars(base))
            assert home.__module__.startswith("roofstep."), method


def test_our_schedules_drive_paddles_optimizers(tmp_path: Path) -> None:
    """Their step, their states, and their static mode, which asks a program's schedule."""
    weights = []
    for library in (roofstep.paddle.lr, paddle.optimizer.lr):
        w = paddle.create_parameter([2], "float32")
        w.name = "w_driven"
        w.set_value(np.ones(2, "float32"))
        rate = library.ExponentialDecay(0.5, 0.75)
        optimizer = paddle.optimizer.SGD(rate, parameters=[w])
        for _ in range(6):
            (w * w).sum().backward()
            optimizer.step()
            optimizer.clear_grad()
            rate.step()
        weights.append(w.numpy())
        state = optimizer.state_dict()
        assert state["LR_Scheduler"]["last_epoch"] == 6
        rate.step()
        optimizer.set_state_dict(state)
        assert rate.last_epoch == 6
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-6)

    ours, theirs = (
        StaticOfPaddle("SGD", {"learning_rate": library.ExponentialDecay(0.5, 0.75)}, "float32")
        for library in (roofstep.paddle.lr, paddle.optimizer.lr)
    )
    for step in STEPS:
        for run in (ours, theirs):
            run.advance(step)
            run.optimizer._learning_rate.step()
        close(ours.values(), theirs.values(), "float32")


def test_a_schedule_of_the_user() -> None:
    class Halving(roofstep.paddle.lr.LRScheduler):
        """Halves."""

        def get_lr(self) -> float:
            return self.base_lr / 2**self.last_epoch

    rate = Halving(0.5)
    assert Halving.__doc__ == "Halves."
    layer = paddle.nn.Linear(2, 1)
    theirs = paddle.optimizer.SGD(rate, parameters=layer.parameters())
    rate.step()
    assert theirs.get_lr() == 0.25


# States in Paddle's form.


@pytest.mark.parametrize("through", ["dict", "file"])
@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize("cls", FAMILIES)
def test_a_state_goes_on_in_paddle(cls: str, dtype: str, through: str, tmp_path: Path) -> None:
    """And what Paddle would have saved is the same, entry by entry, in the same order."""
    family = FAMILIES[cls]
    names = [n for n in family.names if n != "single"]  # which has no gradient at first
    for options in ({}, family.options):
        settings = {k: v for k, v in (family.base | options).items() if k not in family.listed}
        with paddle.utils.unique_name.guard():
            ours, theirs = (
                Dynamic(cls, settings, dtype, names),
                Paddles(cls, settings, dtype, names),
            )
            for step in range(10):
                advance(ours, step)
                advance(theirs, step)
            state = roofstep.paddle.pdopt(ours.optimizer)
            expected = theirs.optimizer.state_dict()
            assert state.keys() == expected.keys()
            close(state, {k: v.numpy() for k, v in expected.items()}, dtype, "as states")
            for key, value in state.items():
                assert (value.dtype, value.shape) == (
                    expected[key].numpy().dtype,
                    tuple(expected[key].shape),
                ), key
        if through == "file" and state:  # Paddle writes no file for a state of nothing
            paddle.save(state, str(tmp_path / "x.pdopt"))
            state = paddle.load(str(tmp_path / "x.pdopt"))
        with paddle.utils.unique_name.guard():
            resumed = Paddles(cls, settings, dtype, names)
            for name, value in ours.values().items():
                resumed.parameters[name].set_value(value)
            resumed.optimizer.set_state_dict(state)
            for step in range(10, 16):
                advance(ours, step)
                advance(resumed, step)
                close(ours.values(), resumed.values(), dtype, f"after step {step}")


def advance(run: Run, step: int) -> None:
    run.feed(step)
    run.optimizer.step()


def test_a_state_with_a_name_a_counter_and_a_schedule() -> None:
    settings = {
        "learning_rate": Made("lr.ExponentialDecay", 0.125, 0.75),
        "name": "mine",
        "beta1": 0.875,
        "beta2": 0.984375,
    }
    ours = Dynamic("Adam", settings, "float32", ["row", "big"])
    first, second = (Paddles("Adam", settings, "float32", ["row", "big"]) for _ in range(2))
    for step in (5, 6, 8):
        for run in (ours, first, second):
            advance(run, step)
            run.optimizer._learning_rate.step()
    for counter, run in enumerate((first, second)):
        state = roofstep.paddle.pdopt(ours.optimizer, counter)
        assert state.keys() == run.optimizer.state_dict().keys()
        assert f"row_mine_moment1_{counter}" in state
        assert state["LR_Scheduler"] == run.optimizer.state_dict()["LR_Scheduler"]
        run.optimizer.set_state_dict(state)
    again = Dynamic("Adam", settings, "float32", ["row", "big"])
    again.optimizer.set_state_dict(roofstep.paddle.pdopt(ours.optimizer))
    assert again.optimizer.state_dict()["row_step_0"] == 3


def test_averages_are_left_out_of_it() -> None:
    ours = Dynamic("SGD", {}, "float32", ["row"])
    ours.optimizer.average_weights(0.5)
    advance(ours, 0)
    assert "row_average_0" in ours.optimizer.state_dict()
    assert roofstep.paddle.pdopt(ours.optimizer) == {}


@pytest.mark.parametrize("cls", ["Lion", "Adan", "LARS"])
def test_no_state_of_a_rule_that_paddle_lacks(cls: str) -> None:
    ours = Dynamic(cls, {"learning_rate": 0.125}, "float32", ["row"])
    with refused(ValueError, "Paddle has too", cls.lower(), "state_dict()"):
        roofstep.paddle.pdopt(ours.optimizer)
    with refused(TypeError, "counter"):
        roofstep.paddle.pdopt(ours.optimizer, "0")  # type: ignore[arg-type]


def test_our_own_state_in_a_pdopt_file(tmp_path: Path) -> None:
    """paddle.save and paddle.load make tensors of its arrays, and leave the settings."""
    settings = {"grad_clip": Made("ClipGradByGlobalNorm", 1.5), "weight_decay": 0.25}
    one, other = (Dynamic("NAdam", own, "float64") for own in (settings, {}))
    for step in STEPS:
        advance(one, step)
    paddle.save(one.optimizer.state_dict(), str(tmp_path / "x.pdopt"))
    for name, value in one.values().items():
        other.parameters[name].set_value(value)
    other.optimizer.set_state_dict(paddle.load(str(tmp_path / "x.pdopt")))
    for step in STEPS:
        advance(one, step)
        advance(other, step)
        for name, value in one.values().items():
            assert value.tobytes() == other.values()[name].tobytes()
