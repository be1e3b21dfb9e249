"""Tensors that say what cannot be: refused, with nothing changed and all of it given back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import roofstep as rs
from handmade import Claim, Handmade, library
from roofstep import _core
from roofstep.tensors import TensorParameter

Tensors = library()


@pytest.fixture
def memory() -> Iterator[Any]:
    """Six numbers, which nobody changes."""
    array = np.arange(1.0, 7.0, dtype=np.float32)
    before = array.copy()
    yield array
    assert (array == before).all()


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "fewer than no dimensions": {"ndim": -1},
    "the fewest dimensions": {"ndim": -(2**31)},
    "too many dimensions": {"ndim": 65, "shape": [1] * 65},
    "the most dimensions": {"ndim": 2**31 - 1},
    "no extents": {"ndim": 2, "shape": None},
    "a negative extent": {"shape": [-6]},
    "two negative extents": {"shape": [-2, -3]},
    "the lowest extent": {"shape": [-(2**63)]},
    "extents with a product of 0 in 64 bits": {"shape": [2**32, 2**32]},
    "extents with a product of 6 in 64 bits": {"shape": [2, 2**63 - 1, 2**63 - 3]},
    "extents with too many bytes": {"shape": [2**61]},
    "no elements, and extents that are too large": {"shape": [2**40, 0, 2**40]},
    "a stride of too many bytes": {"shape": [2], "strides": [2**61]},
    "the lowest stride": {"shape": [1], "strides": [-(2**63)]},
    "a stride that no extent asks for": {"shape": [1, 6], "strides": [2**62, 1]},
    "strides of no elements": {"shape": [0, 2], "strides": [1, 2**62]},
    "strides that together reach too far": {"shape": [2, 2], "strides": [2**59, 2**59]},
    "strides in both directions": {"shape": [2, 2], "strides": [2**59, -(2**59)]},
    "a stride to before the beginning": {"shape": [2**20], "strides": [-(2**30)]},
    "an offset that leads around": {"offset": 2**64 - 4},
    "an offset from nowhere": {"data": None, "offset": 64},
    "no memory": {"data": None},
    "memory at an odd address": {"offset": 2},
    "memory beyond what differences can tell": {"data": 2**63 - 8},
    "another device": {"device": 2},
    "no device": {"device": -1},
    "another dtype": {"code": 0},
    "half precision": {"bits": 16},
    "no bits": {"bits": 0},
    "lanes": {"lanes": 2},
    "no lanes": {"lanes": 0},
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_is_refused(case: str, memory: Any) -> None:
    tensor = Tensors(Claim(**{"data": memory.ctypes.data, "shape": [6], **IMPOSSIBLE[case]}))
    p = rs.Parameter(np.zeros(6, np.float32), "p")
    p.grad = tensor
    own = TensorParameter(tensor, "p")
    for clear in (False, True):
        with pytest.raises(ValueError, match="gradient of parameter 'p': expected"):
            rs.SGD(0.5, [p]).step(clear)
    with pytest.raises(ValueError, match="parameter 'p': expected"):
        rs.SGD(0.5, [own]).step()
    with pytest.raises(ValueError, match="parameter 'p': expected"):
        _core.check_parameter(tensor, "p")
    with pytest.raises(ValueError, match="expected"):
        _core.as_numpy(tensor, "p")
    assert not p.data.any()
    assert tensor.released == tensor.shared


def test_what_can_be_is_stepped(memory: Any) -> None:
    """As far as the limits go; the memory is that of the first element."""
    at, changed = memory.ctypes.data, np.zeros(6, np.float32)
    for claim in (
        Claim(at, [6], [1]), Claim(at + 20, [6], [-1]), Claim(at, [2, 3]), Claim(at, [0, 2**40]),
        Claim(at, [6], [0]), Claim(0, [0]), Claim(None, [3, 0]), Claim(at, [1] * 64),
        Claim(at, []), Claim(at, None), Claim(at, [1, 6], [2**59, 1]), Claim(at - 8, [6], offset=8),
    ):  # fmt: skip
        tensor = Tensors(claim)
        seen = _core.as_numpy(tensor, "p")
        p = rs.Parameter(np.zeros(seen.shape, np.float32), "p")
        p.grad = tensor
        rs.SGD(0.5, [p]).step()
        assert (p.data == -0.5 * seen).all()
        assert tensor.shared == 1
        assert tensor.released == 0
        del seen
        assert tensor.released == 1
    rs.SGD(0.5, [TensorParameter(Tensors(Claim(changed.ctypes.data, [6])), "p")])


def test_a_parameter_is_stepped_where_it_lies() -> None:
    array = np.ones((2, 3), np.float32)
    tensor = Tensors(Claim(array.ctypes.data, [3, 2], [1, 3]))
    tensor.grad = np.ones((3, 2), np.float32)
    optimizer = rs.Adam(0.5, parameters=[TensorParameter(tensor, "p")])
    optimizer.step()
    assert (array == 0.5).all()
    del optimizer
    assert tensor.released == tensor.shared > 0


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (library(show="raises"), ValueError),
        (library(show="refuses"), ValueError),
        (library(show="nothing"), TypeError),
        (library(share="nothing"), TypeError),
        (library(major=0), TypeError),
        (library(major=2), TypeError),
        (library(major=2, older=Handmade), TypeError),
        (library(major=3, older=library(major=2, older=library(major=0))), TypeError),
        (library(name=b"dltensor"), TypeError),
        (library(is_dense=lambda self: False), ValueError),
        (type("Exporter", (Handmade,), {"__dlpack__": lambda self, **_: self}), TypeError),
    ],
)
def test_what_shows_nothing_is_refused(made: Any, error: type[Exception], memory: Any) -> None:
    """A table of another version has another layout; in a circle of them there is no older one."""
    tensor = made(Claim(memory.ctypes.data, [6]), error=KeyError("of another library"))
    p = rs.Parameter(np.zeros(6, np.float32), "p")
    p.grad = tensor
    with pytest.raises(error, match="gradient of parameter 'p': expected"):
        rs.SGD(0.5, [p]).step()
    assert not p.data.any()


def test_an_older_table_is_found(memory: Any) -> None:
    tensor = library(major=3, older=library(major=2, older=library()))(
        Claim(memory.ctypes.data, [6])
    )
    assert (_core.as_numpy(tensor, "p") == memory).all()


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_is_no_answer_of_the_library_passes_through(error: Any, memory: Any) -> None:
    tensor = library(show="raises")(Claim(memory.ctypes.data, [6]), error=error())
    with pytest.raises(error):
        _core.as_numpy(tensor, "p")


def test_memory_that_is_shared_otherwise_is_given_back_and_refused(memory: Any) -> None:
    """By structs of another layout, from elsewhere, as it cannot be, or not at all."""
    at, other = Claim(memory.ctypes.data, [6]), Claim(memory.copy().ctypes.data, [6])
    for tensor, expected in (
        (Tensors(at, version=2), "version 1 of DLPack, got one by version 2"),
        (Tensors(at, version=0), "version 1 of DLPack, got one by version 0"),
        (Tensors(at, at, other), "a copy"),
        (Tensors(at, at, Claim(memory.ctypes.data, [-6])), "memory can hold"),
        (Tensors(at, at, Claim(memory.ctypes.data, [6], device=2)), "memory of the CPU"),
        (library(share="refuses")(at), "memory of the CPU"),
        (library(share="raises")(at, error=KeyError("why")), "does not show: 'why'"),
        (library(share="returns")(at), "memory of the CPU"),
    ):
        with pytest.raises(ValueError, match=expected):
            _core.as_numpy(tensor, "p")
        assert tensor.released == tensor.shared
        assert not tensor.held


def test_what_may_only_be_read_is_shared_so(memory: Any) -> None:
    claim = Claim(memory.ctypes.data, [6])
    assert not _core.as_numpy(Tensors(claim, flags=1), "p").flags.writeable
    assert _core.as_numpy(Tensors(claim), "p").flags.writeable


@pytest.mark.parametrize("optimizer", [rs.SGD, rs.Adam])
def test_a_tensor_in_the_place_of_an_array_is_refused(optimizer: Any, memory: Any) -> None:
    """Its library would not hear of the writes."""
    p = rs.Parameter(np.zeros(6, np.float32), "p")
    opt = optimizer(0.5, parameters=[p])
    p.data, p.grad = Tensors(Claim(memory.ctypes.data, [6])), np.ones(6, np.float32)
    with pytest.raises(TypeError, match=r"parameter 'p': .* parameters=\[tensor\]"):
        opt.step()


def test_what_is_detached_into_no_tensor_is_refused(memory: Any) -> None:
    """A NumPy array has no table by which it could be shared."""
    made = library(detach=lambda self: np.ones(6, np.float32))
    with pytest.raises(ValueError, match=r"parameter 'p': expected .*detach\(\).* got .*ndarray"):
        _core.as_numpy(made(Claim(memory.ctypes.data, [6])), "p")


def raising(error: type[BaseException]) -> property:
    """An attribute of which the look fails."""

    def look(self: Any) -> None:
        raise error("of another library")

    return property(look)


@pytest.mark.parametrize("error", [NotImplementedError, MemoryError, KeyboardInterrupt])
def test_a_look_that_serves_a_message_takes_nothing_from_it(error: Any, memory: Any) -> None:
    passes = issubclass(error, NotImplementedError)
    refused = ValueError if passes else error
    named = dict.fromkeys(("layout", "is_meta", "is_sparse", "is_selected_rows"), raising(error))
    sparse = library(is_dense=lambda self: False, **named)(Claim(memory.ctypes.data, [6]))
    with pytest.raises(refused, match="expected a dense tensor" if passes else None):
        _core.check_parameter(sparse, "p")
    other = type("Other", (), {"to_dense": raising(error)})()
    with pytest.raises(TypeError if passes else error, match="got Other" if passes else None):
        _core.check_parameter(other, "p")
    array = np.ones(3).view(type("Masked", (np.ndarray,), {"mask": raising(error)}))
    if passes:
        _core.check_parameter(array, "p")
        return
    with pytest.raises(error):
        _core.check_parameter(array, "p")
