"""Tensors whose library raises when it is asked for their memory: all or nothing, nothing lost."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import roofstep as rs
from growth import grown
from handmade import CAPSULE, Table, new_capsule
from test_faults import Halve, Training

COUNT = 5
# PyObject_IsTrue takes no notice of where the tensor is wanted, and is -1 with the error of
# ``__bool__`` set.
_address = ctypes.cast(ctypes.pythonapi.PyObject_IsTrue, ctypes.c_void_p)
TABLE = Table(major=1, minor=3, share=_address, show=_address)


class Exporter:
    """A tensor of a library that raises what it is told to."""

    __dlpack_c_exchange_api__ = new_capsule(ctypes.addressof(TABLE), CAPSULE, None)
    error: BaseException | None = None

    def __bool__(self) -> bool:
        if self.error is not None:
            raise self.error
        return True  # is no success: 1 and not 0


class Held(rs.Parameter):
    """A parameter whose data may be a tensor, as those are that hold one of torch or Paddle."""

    __slots__ = ()
    holds_array = False


class StoppedError(BaseException):
    """What is no Exception."""


# What is raised, and whether it reaches the caller as it is or as the cause of a refusal.
ERRORS: dict[str, tuple[Callable[[], BaseException], bool]] = {
    "RuntimeError": (lambda: RuntimeError("no memory here;\nnor there"), False),
    "LookupError": (lambda: LookupError("no memory here"), False),
    "BufferError": (lambda: BufferError("no memory here"), False),
    "MemoryError": (MemoryError, True),
    "KeyboardInterrupt": (KeyboardInterrupt, True),
    "SystemExit": (lambda: SystemExit(3), True),
    "of one's own": (StoppedError, True),
}
WAYS: dict[str, Callable[[Training], object]] = {
    "step": lambda world: world.optimizer.step(),
    "clear": lambda world: world.optimizer.step(clear_grad=True),
    "apply": lambda world: world.optimizer.apply_gradients([(p, p.grad) for p in world.params]),
    "minimize": lambda world: world.optimizer.minimize(0.0),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped, watched": {"grad_clip": rs.ClipGradByGlobalNorm(0.1), "skip_nonfinite": True},
    "a user's clip": {"grad_clip": Halve()},
}


def world_of(options: dict[str, Any], steps: int) -> Training:
    """Parameters that all have a gradient."""

    def make(params: list[rs.Parameter]) -> rs.Optimizer:
        params[:] = [Held(p.data, p.name) for p in params]
        params += [Held(np.ones((4, 3), "f4"), f"p{i}") for i in range(3, COUNT)]
        return rs.Adam(0.1, parameters=params, **options)

    world = Training(steps, make)
    for parameter in world.params:
        parameter.grad = np.full((4, 3), 0.5, "f4")
    return world


def attempt(world: Training, way: str, who: str, at: int, name: str) -> None:
    """Put an exporter in a place, see that it is refused as it should be, and take it out."""
    make, as_it_is = ERRORS[name]
    parameter, exporter = world.params[at], Exporter()
    exporter.error = error = make()
    old = getattr(parameter, who)
    setattr(parameter, who, exporter)
    try:
        with pytest.raises(type(error) if as_it_is else ValueError) as caught:
            WAYS[way](world)
        if as_it_is:
            assert caught.value is error
        else:
            role = "the gradient of parameter" if who == "grad" else "parameter"
            assert str(caught.value).startswith(f"{role} 'p{at}': expected a dense tensor")
            assert "does not show: no memory here" in str(caught.value) or "'" in str(error)
            assert caught.value.__cause__ is error
    finally:
        setattr(parameter, who, old)
        error.__traceback__ = None


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("options", OPTIONS)
def test_all_or_nothing(options: str, name: str) -> None:
    """In the first, a middle and the last parameter, before there are states and with them."""
    for steps in (0, 2):
        world, expected = (world_of(OPTIONS[options], steps) for _ in range(2))
        before = world.seen()
        for at in (0, COUNT // 2, COUNT - 1):
            for way in WAYS:
                for who in ("grad", "data"):
                    attempt(world, way, who, at, name)
                    assert world.seen() == before, (at, way, who)
        for one in (world, expected):
            one.optimizer.step()
        assert world.seen() == expected.seen()


@pytest.mark.parametrize("name", ERRORS)
def test_nothing_is_lost(name: str) -> None:
    world = world_of({"skip_nonfinite": True}, 2)

    def act() -> None:
        for at in (0, COUNT - 1):
            for way in WAYS:
                for who in ("grad", "data"):
                    attempt(world, way, who, at, name)

    assert grown(act, 140, Exporter, ERRORS, spare=[np.dtype("f8")]) == {}


@pytest.mark.parametrize("name", ERRORS)
def test_clearing_by_itself(name: str) -> None:
    world = world_of({}, 1)
    make, as_it_is = ERRORS[name]
    exporter = Exporter()
    exporter.error = make()
    world.params[-1].grad = exporter
    with pytest.raises(type(exporter.error) if as_it_is else ValueError):
        world.optimizer.clear_grad(set_to_zero=True)
    assert all((p.grad == 0.5).all() for p in world.params[:-1])


def test_a_library_that_says_nothing() -> None:
    world = world_of({}, 1)
    world.params[2].grad = Exporter()
    with pytest.raises(ValueError, match=r"gradient of parameter 'p2': .* got another; pass a"):
        world.optimizer.step()


class Publishing(type):
    """The class of a class whose table cannot be looked at."""

    error: BaseException

    @property
    def __dlpack_c_exchange_api__(cls) -> Any:
        raise cls.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), MemoryError()])
def test_a_type_that_raises_is_asked_again(error: BaseException) -> None:
    cls = Publishing("Foreign", (), {})
    cls.error = error
    world = world_of({}, 1)
    before = world.seen()
    world.params[2].grad = cls()
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            world.optimizer.step()
        assert caught.value is error
    for cls.error in (AttributeError(), LookupError("no")):
        with pytest.raises(TypeError, match=r"gradient of parameter 'p2': .* got Foreign"):
            world.optimizer.step()
    assert world.seen() == before


class Python:
    """What publishes methods of Python alone is no tensor here, and they are not called."""

    def __dlpack__(self, **_: Any) -> Any:
        raise KeyboardInterrupt

    def __dlpack_device__(self) -> Any:
        raise KeyboardInterrupt


def test_methods_of_python_are_not_called() -> None:
    world = world_of({}, 1)
    world.params[2].grad = Python()
    with pytest.raises(TypeError, match=r"gradient of parameter 'p2': .* got Python"):
        world.optimizer.step()
    with pytest.raises(TypeError, match="expected a NumPy array"):
        rs.Parameter(Python())  # type: ignore[arg-type]
