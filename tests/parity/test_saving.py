"""Checkpoints in files of optimizers of tensors: written from where these lie, and read into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roofstep
import roofstep.paddle
from harness import paddle
from programs import Static
from test_tensors import LAYOUTS, LIBRARIES, same_bits, values

# Paddle's backward pass warns of itself in static mode.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")


def optimizer_of(library: str, scale: float) -> tuple[roofstep.Optimizer, list[Any]]:
    """With tensors of every dtype and layout, which have gradients."""
    tensors = []
    for make in LAYOUTS.values():
        for dtype in ("float32", "float64"):
            value, gradient = np.empty_like(make(), dtype), np.empty_like(make(), dtype)
            value[...], gradient[...] = scale * make(), make() + 1
            tensors.append(LIBRARIES[library](value))
            tensors[-1].grad = LIBRARIES[library](gradient).detach()
            if library == "paddle":
                tensors[-1].name = f"t{len(tensors)}"
    optimizer = roofstep.Adam(0.1 * scale, parameters=tensors)
    optimizer.average_weights(0.5)
    return optimizer, tensors


@pytest.mark.parametrize("library", LIBRARIES)
def test_tensors_go_on_bit_for_bit(library: str, tmp_path: Path) -> None:
    (first, tensors), (second, others) = (optimizer_of(library, scale) for scale in (1.0, 0.0))
    for _ in range(2):
        first.step()
    first.save(tmp_path / "file", parameters=True)
    addresses = [other.data_ptr() for other in others]
    versions = [other._version for other in others] if library == "torch" else []
    second.load(tmp_path / "file", parameters=True)
    assert [other.data_ptr() for other in others] == addresses
    if library == "torch":  # a backward pass that needs the former values is to refuse
        assert all(o._version > v for o, v in zip(others, versions, strict=True))
    for _ in range(2):
        for tensor, other in zip(tensors, others, strict=True):
            assert same_bits(values(tensor), values(other))
        for optimizer in (first, second):
            optimizer.step()


def test_a_class_of_paddles_own_type_with_a_schedule_of_paddle(tmp_path: Path) -> None:
    def make(rate: float) -> Any:
        schedule = paddle.optimizer.lr.StepDecay(rate, 2)
        return roofstep.paddle.Momentum(schedule, parameters=[layer.weight]), schedule

    layer = paddle.nn.Linear(3, 2)
    optimizer, schedule = make(0.5)
    for _ in range(3):
        layer(paddle.ones([4, 3])).sum().backward()
        optimizer.step()
        schedule.step()
    optimizer.save(tmp_path / "file", parameters=True)
    saved = values(layer.weight).copy()
    layer.weight.set_value(paddle.zeros([3, 2]))
    again, other = make(0.25)
    again.load(tmp_path / "file")
    assert other.state_dict() == schedule.state_dict()
    assert same_bits(values(layer.weight), saved)
    assert np.array_equal(*(o.state_dict()[f"{layer.weight.name}_velocity_0"]
                            for o in (again, optimizer)))  # fmt: skip


def test_a_static_program_goes_on(tmp_path: Path) -> None:
    run = Static("Adam", {}, "float32")
    with pytest.raises(RuntimeError, match="run its program first"):
        run.optimizer.save(tmp_path / "file", parameters=True)
    assert not [*tmp_path.iterdir()]
    for step in range(2):
        run.advance(step)
    run.optimizer.save(tmp_path / "file", parameters=True)
    saved = run.values()
    run.advance(2)
    expected = run.values()
    run.optimizer.load(tmp_path / "file")
    assert all(same_bits(run.values()[name], saved[name]) for name in saved)
    run.advance(2)
    assert all(same_bits(run.values()[name], expected[name]) for name in saved)
