"""A program with full types, as a user writes it: mypy --strict holds the public API to them.

Each `type: ignore` is an error that mypy must find; one that it does not find is an error itself.
What such a line does is refused at run time, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import roofstep
from roofstep import lr
from roofstep.types import Group

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value: Any, kind: Any) -> Any:
        return value


Array = np.ndarray[Any, Any]


def parameters() -> tuple[roofstep.Parameter, roofstep.Parameter]:
    w = roofstep.Parameter(np.ones((3, 2), "float32"), name="w")
    b = roofstep.Parameter(np.ones(2, "float32"), attr=roofstep.ParamAttr("b", learning_rate=0.5))
    w.grad, b.grad = np.ones_like(w.data), np.ones_like(b.data)
    return w, b


def test_a_parameter() -> None:
    w, b = parameters()
    assert_type(w.data, Array)
    assert_type(w.grad, Array | roofstep.SelectedRows | None)
    assert_type(w.name, str | None)
    assert_type(b.learning_rate, float)
    assert_type(b.trainable, bool)
    assert_type(b.regularizer, roofstep.WeightDecayRegularizer | None)
    for rate in (0, 0.5, np.float32(0.5), np.int64(1)):
        w.learning_rate = rate
        roofstep.ParamAttr(learning_rate=rate)
    assert_type(w.learning_rate, float)
    for decay in (None, 0.1, np.float32(0.1), roofstep.L1Decay(0.1)):
        w.regularizer = decay
    assert_type(w.regularizer, roofstep.WeightDecayRegularizer | None)
    w.need_clip = w.trainable = False
    with pytest.raises(TypeError):
        w.learning_rate = "0.5"  # type: ignore[assignment]
    with pytest.raises(TypeError):
        w.regularizer = "0.1"  # type: ignore[assignment]
    with pytest.raises(TypeError):
        w.trainable = 0  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        w.name = "v"  # type: ignore[misc]
    w.grad = roofstep.SelectedRows(np.array([0, 2]), np.ones((2, 2), "float32"))
    assert_type(w.grad.to_dense(3), Array)
    assert_type(w.grad.rows, Array)
    with pytest.raises(TypeError):
        roofstep.Parameter([1.0, 2.0])  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        w.gard = None  # type: ignore[attr-defined]


def test_a_loop_with_groups_a_schedule_and_a_clip() -> None:
    w, b = parameters()
    rate = lr.LinearWarmup(lr.CosineAnnealingDecay(1e-3, T_max=8), 2, start_lr=0.0, end_lr=1e-3)
    optimizer = roofstep.AdamW(
        rate,
        parameters=[{"params": [w]}, {"params": [b], "weight_decay": None, "learning_rate": 0.1}],
        weight_decay=0.01,
        grad_clip=roofstep.ClipGradByGlobalNorm(1.0),
    )
    for _ in range(3):
        optimizer.step()
        rate.step()
    optimizer.clear_grad()
    assert_type(optimizer.last_grad_norm, float | None)
    assert_type(optimizer.last_step_applied, bool | None)
    assert_type(optimizer.skipped_steps, int)
    assert_type(optimizer.step(True, grad_scale=2.0**16), None)
    assert_type(optimizer.get_lr(), float)
    assert_type(rate(), float)
    assert_type(optimizer.parameters, tuple[roofstep.Parameter, ...])
    assert_type(optimizer.param_groups, list[dict[str, Any]])
    assert optimizer.parameters == (w, b)


def test_learning_rates() -> None:
    w, _ = parameters()
    optimizer = roofstep.SGD(0.1, [w])
    for rate in (1, 0.5, np.float32(0.5), np.float64(0.5), np.int64(1)):
        roofstep.SGD(rate, [w], weight_decay=rate)
        optimizer.set_lr(rate)
    plateau = lr.ReduceOnPlateau(np.float32(0.1))
    optimizer.set_lr_scheduler(plateau)
    plateau.step(np.float32(2.0))
    with pytest.raises(TypeError):
        roofstep.SGD("0.1", [w])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        roofstep.SGD([w], 0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        roofstep.SGD(lambda: 0.1, [w])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        optimizer.set_lr_scheduler(0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        plateau.step()  # type: ignore[call-arg]


def test_what_is_stepped() -> None:
    w, b = parameters()
    array = np.ones(3)
    roofstep.Adam(0.1, parameters=[array])
    roofstep.Adam(0.1, parameters=(p for p in (w, b)))
    optimizer = roofstep.Adam(parameters=roofstep.layerwise_lr_decay([w, [b]], decay=0.5))
    optimizer.add_param_group({"params": [array], "beta1": 0.8})
    groups: list[Group] = [{"params": [w]}, {"params": [b], "weight_decay": None}]
    roofstep.AdamW(1e-3, parameters=groups)
    assert_type(roofstep.layerwise_lr_decay([w, {"params": b}], 0.5), list[dict[str, Any]])
    with pytest.raises(TypeError):
        roofstep.Adam(0.1, parameters=w)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        roofstep.Adam(0.1, parameters=[1.0, 2.0])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        roofstep.Adam(0.1, parameters={"w": array})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        optimizer.add_param_group([w])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        roofstep.Adam(learnig_rate=0.1)  # type: ignore[call-arg]


def test_decays_and_clips() -> None:
    w, _ = parameters()
    for decay in (None, 0.1, roofstep.L1Decay(0.1), roofstep.L2Decay(0.1)):
        roofstep.Momentum(0.1, parameters=[w], weight_decay=decay)
    for clip in (None, roofstep.ClipGradByValue(1.0), roofstep.ClipGradByNorm(1.0)):
        roofstep.Momentum(0.1, parameters=[w], grad_clip=clip)
    assert_type(roofstep.ClipGradByNorm(1.0)([(w, w.data)])[0][0], roofstep.Parameter)
    assert_type(roofstep.L2Decay(0.5)(w), Array)
    assert_type(roofstep.L2Decay(0.5).coeff, float)
    with pytest.raises(TypeError):
        roofstep.Momentum(0.1, parameters=[w], weight_decay="0.1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        roofstep.Momentum(0.1, parameters=[w], grad_clip=1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        roofstep.Momentum(
            0.1,
            parameters=[w],
            grad_clip=roofstep.L2Decay(0.1),  # type: ignore[arg-type]
        )
    with pytest.raises(TypeError):
        roofstep.AdamW(weight_decay=roofstep.L2Decay(0.1))  # type: ignore[arg-type]

    def shrink(param: roofstep.Parameter, grad: Array | None, block: object) -> Array:
        return param.data

    with pytest.raises(TypeError):
        roofstep.Momentum(0.1, parameters=[w], weight_decay=shrink)  # type: ignore[arg-type]


def test_settings_of_numpy() -> None:
    w, _ = parameters()
    one, tenth, three = np.float32(1), np.float64(0.1), np.int64(3)
    roofstep.Adam(tenth, tenth, tenth, tenth, parameters=[w], weight_decay=tenth)
    roofstep.ASGD(tenth, batch_num=three, parameters=[w])
    roofstep.Rprop(tenth, learning_rate_range=[1e-3, one], etas=np.array([0.5, 1.2]))
    roofstep.LBFGS(one, max_iter=three, max_eval=three, history_size=three, parameters=[w])
    roofstep.ClipGradByGlobalNorm(one)
    roofstep.ClipGradByNorm(one)
    roofstep.ClipGradByValue(one, min=-one)
    roofstep.L1Decay(tenth)
    assert_type(lr.preview(lr.StepDecay(tenth, step_size=three, gamma=tenth), three), list[float])
    lr.MultiStepDecay(tenth, [three], last_epoch=three)
    lr.LambdaDecay(tenth, lambda epoch: np.float32(0.5)).step(three)
    roofstep.Rprop(tenth, parameters=[w]).average_weights(tenth)
    with pytest.raises(TypeError):
        roofstep.ASGD(tenth, batch_num=0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        roofstep.Rprop(tenth, etas=0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        roofstep.Adam(use_multi_tensor=np.bool_(True))  # type: ignore[arg-type]


def test_files(tmp_path: Path) -> None:
    w, _ = parameters()
    optimizer = roofstep.SGD(0.1, parameters=[w])
    optimizer.save(tmp_path / "a.safetensors")
    optimizer.load(str(tmp_path / "a.safetensors"))
    with pytest.raises(TypeError):
        optimizer.save(b"a.safetensors")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        optimizer.load(b"a.safetensors")  # type: ignore[arg-type]


def test_gradients_that_are_given() -> None:
    w, b = parameters()
    optimizer = roofstep.Adagrad(0.1, parameters=[w, b])

    def loss() -> tuple[float, list[Array]]:
        return float((w.data**2).sum()), [2 * w.data, 2 * b.data]

    operators, pairs = optimizer.minimize(loss, parameters=[w, "b"])
    assert operators == []
    assert_type(pairs, list[tuple[roofstep.Parameter, Any]])
    assert_type(optimizer.backward(loss), list[tuple[roofstep.Parameter, Any]])
    rows = roofstep.SelectedRows(np.array([1]), np.ones((1, 2), "float32"))
    optimizer.apply_gradients([(w, rows), ("b", np.ones(2, "float32"))])
    optimizer.apply_gradients(pairs)
    with pytest.raises(TypeError):
        optimizer.apply_gradients([(w, 1.0)])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        optimizer.apply_gradients([w, b])  # type: ignore[list-item]


def test_a_state_dict_there_and_back() -> None:
    w, b = parameters()
    schedule = lr.StepDecay(0.1, step_size=2)
    optimizer = roofstep.Adam(schedule, parameters=[w, b])
    optimizer.step()
    state = optimizer.state_dict()
    assert_type(state, dict[str, Any])
    assert_type(schedule.state_dict(), dict[str, Any])
    again = roofstep.Adam(lr.StepDecay(0.1, step_size=2), parameters=[w, b])
    again.set_state_dict(state)
    assert again.state_dict().keys() == state.keys()
    with pytest.raises(TypeError):
        again.set_state_dict([*state])  # type: ignore[arg-type]


def test_averaged_weights() -> None:
    w, b = parameters()
    optimizer = roofstep.Lion(1e-2, parameters=[w, b])
    optimizer.average_weights(decay=0.9)
    optimizer.step()
    with optimizer.averaged() as nothing:
        assert_type(nothing, None)
        assert_type(w.data, Array)
    with pytest.raises(TypeError):
        optimizer.average_weights("0.9")  # type: ignore[arg-type]


def test_lbfgs() -> None:
    w = roofstep.Parameter(np.array([3.0]))
    optimizer = roofstep.LBFGS(parameters=[w], line_search_fn="strong_wolfe")

    def closure() -> float:
        w.grad = 2 * w.data
        return float((w.data**2).sum())

    def forgetful() -> None:
        closure()

    assert_type(optimizer.step(closure), float)
    with pytest.raises(TypeError):
        optimizer.step(forgetful)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        optimizer.step()  # type: ignore[call-arg]


class ClipBySign(roofstep.ClipGradBase):
    def _dygraph_clip(
        self, params_grads: list[tuple[roofstep.Parameter, Array]]
    ) -> list[tuple[roofstep.Parameter, Array]]:
        return [(p, np.sign(g) if p.need_clip else g) for p, g in params_grads]


class TowardsOne(roofstep.WeightDecayRegularizer):
    def __call__(
        self, param: roofstep.Parameter, grad: Array | None, block: object = None
    ) -> Array:
        term: Array = 0.5 * (param.data - 1)
        return term


class Halving(lr.LRScheduler):
    def get_lr(self) -> float:
        return self.base_lr / 2.0**self.last_epoch


class Alternating:
    """A schedule that derives from nothing."""

    def __init__(self) -> None:
        self.epoch = 0

    def __call__(self) -> float:
        return 0.1 if self.epoch % 2 else 0.2

    def step(self) -> None:
        self.epoch += 1


class CautiousAdam(roofstep.Adam):
    """Steps only by gradients that are not too large."""

    def __init__(self, rate: float, parameters: list[roofstep.Parameter], limit: float) -> None:
        super().__init__(rate, parameters=parameters)
        self.limit = limit

    def step(self, clear_grad: bool = False, **options: Any) -> None:
        grads = [p.grad for p in self.parameters if isinstance(p.grad, np.ndarray)]
        if all(float(np.abs(grad).max()) <= self.limit for grad in grads):
            super().step(clear_grad, **options)


def test_classes_of_ones_own() -> None:
    w, b = parameters()
    for schedule in (Halving(0.5), Alternating()):
        optimizer = roofstep.SGD(
            schedule, [w, b], weight_decay=TowardsOne(), grad_clip=ClipBySign()
        )
        optimizer.step()
        schedule.step()
    assert_type(lr.preview(Halving(0.5), 3), list[float])
    before = w.data.copy()
    CautiousAdam(0.1, [w, b], limit=0.5).step()
    assert np.array_equal(w.data, before)
    with pytest.raises(TypeError):
        roofstep.ClipGradBase()  # type: ignore[abstract]
    with pytest.raises(TypeError):
        roofstep.WeightDecayRegularizer()  # type: ignore[abstract]


def test_the_process_and_the_compiled_door() -> None:
    from roofstep import kernels

    assert_type(roofstep.__version__, str)
    assert_type(roofstep.get_num_threads(), int)
    roofstep.set_num_threads(np.int64(1))
    roofstep.set_num_threads(None)
    assert_type(roofstep.get_include(), str)
    assert Path(roofstep.get_include(), "roofstep", "roofstep.h").exists()
    assert_type(kernels.version, int)
    assert_type(kernels.address(), int)
    with pytest.raises(TypeError):
        roofstep.set_num_threads("2")  # type: ignore[arg-type]
