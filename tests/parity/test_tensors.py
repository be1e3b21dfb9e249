"""torch and Paddle tensors as parameters: the bits of NumPy, what the libraries see, refusals."""

from __future__ import annotations

import copy
import doctest
import gc
import importlib
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import roofstep
from harness import paddle
from roofstep import _core

Array = np.ndarray[Any, Any]

OPTIMIZERS = {
    name: cls
    for name in roofstep.__all__
    if inspect.isclass(cls := getattr(roofstep, name))
    and issubclass(cls, roofstep.Optimizer)
    and cls not in (roofstep.Optimizer, roofstep.LBFGS)
}


def torch_like(array: Array) -> Any:
    """A parameter of torch with the same values and strides."""
    tensor = torch.empty_strided(
        array.shape,
        [stride // array.itemsize for stride in array.strides],
        dtype=getattr(torch, str(array.dtype)),
    )
    tensor.numpy()[...] = array
    return torch.nn.Parameter(tensor)


def paddle_like(array: Array) -> Any:
    """A tensor of Paddle with the same values and strides, to be trained."""
    tensor = paddle.from_dlpack(array.copy(order="K"))
    tensor.stop_gradient = False
    return tensor


LIBRARIES = {"torch": torch_like, "paddle": paddle_like}

# Of one and of several blocks of the kernels; as they lie in memory.
LAYOUTS: dict[str, Callable[[], Array]] = {
    "scalar": lambda: np.array(0.75),
    "single": lambda: np.array([0.5]),
    "empty": lambda: np.zeros((0, 3)),
    "rows": lambda: numbers(65, 67),
    "columns": lambda: numbers(67, 65).T,
    "channels_last": lambda: numbers(2, 5, 4, 3).transpose(0, 3, 1, 2),
}


def numbers(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape)


def values(tensor: Any) -> Array:
    array: Array = tensor.detach().numpy()
    return array


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def refused(error: type[Exception], *parts: str) -> Any:
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


class Twins:
    """The same parameters in a library and in NumPy, each with an optimizer of the same settings.

    Args:
        library: whose tensors the ones are.
        cls: of the optimizers.
        arrays: what the parameters begin with.
        settings: of the optimizers.
    """

    def __init__(self, library: str, cls: Any, arrays: list[Array], **settings: Any) -> None:
        self.tensors = [LIBRARIES[library](array) for array in arrays]
        self.parameters = [
            roofstep.Parameter(array.copy(order="K"), name=f"p{i}")
            for i, array in enumerate(arrays)
        ]
        settings.setdefault("learning_rate", 0.01)
        self.tested = cls(parameters=iter(self.tensors), **settings)
        self.expected = cls(parameters=self.parameters, **settings)
        self._as_gradient = LIBRARIES[library]

    def give(self, gradients: list[Array | None]) -> None:
        rows = zip(self.tensors, self.parameters, gradients, strict=True)
        for tensor, parameter, gradient in rows:
            parameter.grad = gradient
            tensor.grad = None if gradient is None else self._as_gradient(gradient).detach()

    def step(self, **options: Any) -> None:
        self.tested.step(**options)
        self.expected.step(**options)

    def agree(self) -> bool:
        return all(
            same_bits(values(tensor), parameter.data)
            for tensor, parameter in zip(self.tensors, self.parameters, strict=True)
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_gives_the_bits_of_numpy(name: str, library: str, dtype: str) -> None:
    arrays = [make().astype(dtype) for make in LAYOUTS.values()]
    clip = roofstep.ClipGradByGlobalNorm(20.0)
    twins = Twins(library, OPTIMIZERS[name], arrays, grad_clip=clip)
    for optimizer in (twins.tested, twins.expected):
        optimizer.average_weights(0.5)
    for step in range(3):
        gradients = [np.asarray((step + 1) * array + 1, dtype) for array in arrays]
        twins.give([None if step == 1 and g.ndim == 1 else g for g in gradients])
        twins.step()
        assert twins.agree()
    assert twins.tested.last_grad_norm == twins.expected.last_grad_norm
    assert twins.tested.last_grad_norm > 20
    for tensor, array in zip(twins.tensors, arrays, strict=True):
        assert not array.size or not same_bits(values(tensor), array)
    names = twins.tested._parameters, twins.expected._parameters
    for (own, found), (like, parameter) in zip(*(n.items() for n in names), strict=True):
        states = twins.tested._states.get(own, {})
        assert states.keys() == twins.expected._states.get(like, {}).keys() != set()
        for s, state in states.items():
            assert same_bits(state, twins.expected._states[like][s])
            assert state.strides[state.ndim - parameter.data.ndim :] == found.array.strides
    with twins.tested.averaged(), twins.expected.averaged():
        assert twins.agree()
    assert twins.agree()


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("clear_grad", [False, True])
def test_gradients_of_other_strides(library: str, clear_grad: bool) -> None:
    twins = Twins(library, roofstep.Adam, [numbers(65, 67), numbers(67, 65).T])
    gradient = numbers(67, 65).T
    twins.give([gradient, np.ascontiguousarray(gradient)])
    kept = [tensor.grad for tensor in twins.tensors]
    twins.step(clear_grad=clear_grad)
    assert twins.agree()
    assert all(bool((values(grad) == 0).all()) is clear_grad for grad in kept)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_view_as_gradient_is_read_and_zeroed_where_it_lies(library: str) -> None:
    whole = LIBRARIES[library](numbers(8, 6)).detach()
    tensors = [LIBRARIES[library](numbers(8, 2)) for _ in range(3)]
    for i, tensor in enumerate(tensors):
        tensor.grad = whole[:, 2 * i : 2 * i + 2]
    before = values(whole).copy()
    began = [values(tensor).copy() for tensor in tensors]
    roofstep.SGD(1.0, tensors).step(clear_grad=library == "torch")
    for i, (tensor, begin) in enumerate(zip(tensors, began, strict=True)):
        assert same_bits(values(tensor), begin - before[:, 2 * i : 2 * i + 2])
    # Paddle's slices are copies.
    assert bool((values(whole) == 0).all()) is (library == "torch")


def test_interleaved_gradients_that_share_bytes_are_refused() -> None:
    whole = torch.zeros(4, 64)
    tensors = [torch.nn.Parameter(torch.zeros(4, 2)) for _ in range(31)]
    for i, tensor in enumerate(tensors):
        tensor.grad = whole[:, 2 * i : 2 * i + 2]
    optimizer = roofstep.SGD(1.0, tensors)
    optimizer.step(clear_grad=True)
    tensors[7].grad = whole[:, 17:19]
    with refused(ValueError, "gradient of", "param_7", "overlap", "tensor.clone()"):
        optimizer.step(clear_grad=True)


# What torch is told.


def versions(tensors: list[Any]) -> list[int]:
    return [tensor._version for tensor in tensors]


def with_gradients(*shapes: int) -> list[Any]:
    tensors = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    return tensors


def test_versions_move_on_once_where_something_was_written() -> None:
    tensors = [*with_gradients(2, 3), torch.nn.Parameter(torch.ones(4))]
    gradients = [tensor.grad for tensor in tensors[:2]]
    optimizer = roofstep.Adam(0.1, parameters=tensors)
    for n in (1, 2):
        optimizer.step()
        assert versions(tensors) == [n, n, 0]
        assert versions(gradients) == [0, 0]
    optimizer.step(clear_grad=True)
    assert versions(tensors) == [3, 3, 0]
    assert versions(gradients) == [1, 1]
    optimizer.clear_grad(set_to_zero=True)
    assert versions(gradients) == [2, 2]
    optimizer.apply_gradients([(tensors[2], torch.ones(4))])
    assert versions(tensors) == [3, 3, 1]
    tensors[0].grad = torch.ones(3)[:2].to(torch.float32).reshape(1, 2).expand(1, 2)[0]
    tensors[1].grad = torch.ones(3).double().float()
    optimizer.param_groups[0]["grad_clip"] = Doubling()
    optimizer.step(clear_grad=True)
    assert versions(tensors) == [4, 4, 1]
    assert tensors[1].grad.abs().max() == 0
    assert tensors[1].grad._version == 1


def test_a_refused_step_moves_no_version() -> None:
    tensors = with_gradients(2, 3)
    tensors[1].grad = None
    optimizer = roofstep.Adam(0.1, parameters=tensors)
    with refused(ValueError, "the gradient of parameter 'param_1'", "float32", "float64"):
        optimizer.apply_gradients(
            [(tensors[0], torch.ones(2)), (tensors[1], torch.ones(3).double())]
        )
    assert versions(tensors) == [0, 0]
    assert tensors[0].detach().tolist() == [1, 1]


def test_a_stale_backward_raises() -> None:
    """As with torch's own optimizers; a step in between would give gradients of other weights."""
    weight = torch.nn.Parameter(torch.ones(3))
    for optimizer in (torch.optim.SGD([weight], 0.1), roofstep.SGD(0.1, [weight])):
        loss = (weight * weight).sum()
        weight.grad = torch.ones(3)
        optimizer.step()
        with refused(RuntimeError, "modified by an inplace operation"):
            loss.backward()


def test_averaged_weights_move_the_version_too() -> None:
    (weight,) = with_gradients(3)
    optimizer = roofstep.SGD(0.1, [weight])
    optimizer.average_weights(0.5)
    optimizer.step()
    with optimizer.averaged():
        assert weight._version == 2
        loss = (weight * weight).sum()
    assert weight._version == 3
    with refused(RuntimeError, "modified by an inplace operation"):
        loss.backward()


# Refusals.


def lazily_negated() -> Any:
    return torch.ones(3, dtype=torch.complex64).conj().imag


TENSORS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "bfloat16": (
        lambda: torch.zeros(2, dtype=torch.bfloat16),
        ("dtype float32 or float64", "torch.bfloat16", ".float()"),
    ),
    "float16": (
        lambda: paddle.zeros([2], "float16"),
        ("dtype float32 or float64", "paddle.float16", ".float()"),
    ),
    "integers": (lambda: torch.zeros(2, dtype=torch.int64), ("dtype", "torch.int64", ".float()")),
    "complex": (
        lambda: torch.zeros(2, dtype=torch.complex64).conj(),
        ("dtype", "torch.complex64", "torch.view_as_real"),
    ),
    "negated": (lazily_negated, ("values", "lazily negated", "resolve_neg()")),
    "one negated": (lambda: lazily_negated()[:1], ("lazily negated", "resolve_neg()")),
    "an imaginary part": (
        lambda: torch.ones(1, dtype=torch.complex64).conj().imag,
        ("lazily negated", "resolve_neg()"),
    ),
    "meta": (lambda: torch.zeros(2, device="meta"), ("the meta device", "to_empty(device='cpu')")),
    "coo": (lambda: torch.zeros(2, 2).to_sparse(), ("a sparse tensor", "to_dense()")),
    "csr": (lambda: csr(), ("a sparse tensor", "to_dense()")),
    "Paddle's coo": (
        lambda: paddle.sparse.sparse_coo_tensor([[0, 1], [1, 0]], [1.0, 2.0], [2, 2]),
        ("a sparse tensor", "to_dense()"),
    ),
    "nested": (
        lambda: nested(),
        ("its library does not show", "dense"),
    ),
    "freed": (lambda: freed(), ("with memory", "not there")),
    "misaligned": (
        lambda: torch.frombuffer(bytearray(13), dtype=torch.float32, offset=1, count=3),
        ("aligned memory", "tensor.clone()"),
    ),
}
LAYOUTS_REFUSED: dict[str, Callable[[], Any]] = {
    "expanded": lambda: torch.zeros(1).expand(4),
    "a column": lambda: torch.zeros(4, 4)[:, 1],
    "overlapping": lambda: torch.zeros(5).as_strided((2, 3), (2, 1)),
}


def csr() -> Any:
    with warnings.catch_warnings():  # torch says once in a process that these are in beta
        warnings.simplefilter("ignore")
        return torch.zeros(2, 2).to_sparse_csr()


def nested() -> Any:
    with warnings.catch_warnings():  # that these are a prototype
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.zeros(2)])


def freed() -> Any:
    tensor = torch.zeros(4)
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_cannot_be_stepped(case: str) -> None:
    make, parts = TENSORS[case]
    with refused(ValueError, "parameter 'w'", "expected", parts[0], *parts[1:]):
        _core.check_parameter(make(), "w")
    # And so as a gradient, whatever it is a gradient of.
    weight = roofstep.Parameter(np.ones(3, "float32"), name="w")
    with refused(ValueError, "the gradient of parameter 'w'", parts[0], *parts[1:]):
        roofstep.SGD(0.1, [weight]).apply_gradients([(weight, make())])
    assert weight.data.tolist() == [1, 1, 1]


def test_selected_rows_are_no_parameter() -> None:
    """Of which Paddle's table would show what is not there."""
    embedding = paddle.nn.Embedding(10, 3, sparse=True)
    embedding(paddle.to_tensor([1, 2])).sum().backward()
    with refused(ValueError, "parameter 'w'", "expected", "a sparse tensor", "to_dense()"):
        _core.check_parameter(embedding.weight.grad, "w")


@pytest.mark.parametrize("case", LAYOUTS_REFUSED)
def test_layouts_that_cannot_be_stepped(case: str) -> None:
    with refused(ValueError, "parameter 'param_0'", "dense memory", "strides", "contiguous()"):
        roofstep.Adam(0.1, parameters=[LAYOUTS_REFUSED[case]()])


def test_an_expanded_gradient_is_read_and_not_zeroed() -> None:
    (weight,) = with_gradients(4)
    weight.grad = torch.ones(1).expand(4)
    optimizer = roofstep.SGD(0.5, [weight])
    with refused(ValueError, "gradient of parameter 'param_0'", "zeroed", "tensor.clone()"):
        optimizer.step(clear_grad=True)
    with refused(ValueError, "gradient of parameter 'param_0'", "zeroed", "tensor.clone()"):
        optimizer.clear_grad(set_to_zero=True)
    optimizer.step()
    assert weight.tolist() == [0.5] * 4


def test_the_error_of_the_library_is_the_cause() -> None:
    with refused(ValueError, "param") as caught:
        roofstep.Adam(0.1, parameters=[torch.zeros(2, device="meta")])
    assert "meta" in str(caught.value.__cause__)


def test_tensors_that_are_no_parameters() -> None:
    weight = torch.ones(3, requires_grad=True)
    with refused(ValueError, "leaf tensors", "(3,)", "computed from others", "detach()"):
        roofstep.Adam(0.1, parameters=[weight * 2])
    with refused(TypeError, "NumPy array", "torch", "parameters=[tensor]"):
        roofstep.Parameter(weight)
    with refused(ValueError, "'param_1'", "twice", "'param_0'"):
        roofstep.Adam(0.1, parameters=[weight, weight])
    with refused(TypeError, "expected a list or tuple", "Tensor"):
        roofstep.Adam(0.1, parameters=weight)
    # Which looks like any other where its elements are adjacent.
    negated = torch.ones(4, dtype=torch.complex64).conj().imag.as_strided((4,), (1,))
    with refused(ValueError, "lazily negated", "(4,)", "resolve_neg()"):
        roofstep.Adam(0.1, parameters=[negated])
    doubled = weight * 2
    doubled.retain_grad()
    assert len(roofstep.Adam(0.1, parameters=[doubled]).parameters) == 1


def test_a_library_without_gradients_is_refused() -> None:
    capsule = torch.Tensor.__dlpack_c_exchange_api__
    foreign = type("Foreign", (), {"__dlpack_c_exchange_api__": capsule})
    assert _core.is_tensor(foreign())
    with refused(TypeError, "torch or Paddle", "Foreign"):
        roofstep.Adam(0.1, parameters=[foreign()])


def test_parameters_that_share_memory() -> None:
    whole = torch.zeros(6)
    tensors = [torch.nn.Parameter(whole[:4]), torch.nn.Parameter(whole[2:])]
    for tensor in tensors:
        tensor.grad = torch.ones(4)
    with refused(ValueError, "'param_0'", "'param_1'", "overlap", "tensor.clone()"):
        roofstep.SGD(0.1, tensors).step()
    assert whole.abs().max() == 0


# Types and memory.


def test_types_come_and_go() -> None:
    """The memory of a type that died is taken by another, which may publish something else."""
    for i in range(200):
        tensors = type(f"Tensor{i}", (torch.Tensor,), {})
        assert _core.is_tensor(torch.zeros(2).as_subclass(tensors))
        assert not _core.is_tensor(type(f"Other{i}", (), {})())
        del tensors
        gc.collect(0)
    plain = type("Plain", (), {"__dlpack_c_exchange_api__": None})
    assert not _core.is_tensor(plain())
    assert not _core.is_tensor(np.zeros(2))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_view_in_numpy_keeps_the_memory(library: str) -> None:
    tensor = LIBRARIES[library](numbers(3, 5).T)
    view = _core.as_numpy(tensor, "w")
    assert view.strides == (8, 40)
    expected = view.copy()
    view[0, 0] = expected[0, 0] = 7
    assert values(tensor)[0, 0] == 7
    tensor.data = LIBRARIES[library](numbers(2))
    for _ in range(100):
        LIBRARIES[library](np.zeros((5, 3)))
    del tensor
    gc.collect()
    assert same_bits(view, expected)
    array = np.zeros(3)
    assert _core.as_numpy(array, "w") is array
    with refused(TypeError, "parameter 'w'"):
        _core.as_numpy([1.0], "w")


def test_a_view_in_numpy_keeps_the_memory_of_a_gradient_that_is_dropped() -> None:
    for make in LIBRARIES.values():
        tensor = make(np.ones(3))
        tensor.grad = make(np.full(3, 7.0)).detach()
        view = _core.as_numpy(tensor.grad, "w")
        tensor.grad = None
        others = [make(np.zeros(3)) for _ in range(100)]
        assert view.tolist() == [7, 7, 7]
        del others


def test_paddles_own_tensors_without_elements() -> None:
    """Whose strides are not those that NumPy gives."""
    tensor = paddle.zeros([0, 3])
    tensor.stop_gradient = False
    optimizer = roofstep.Adam(0.1, parameters=[tensor])
    optimizer.apply_gradients([(tensor, paddle.zeros([0, 3]))])
    assert optimizer._counts.tolist() == [1]


@pytest.mark.parametrize("library", LIBRARIES)
def test_new_memory_is_found_at_the_next_step(library: str) -> None:
    tensor = LIBRARIES[library](np.zeros(3))
    old = tensor.detach()
    optimizer = roofstep.SGD(1.0, [tensor])
    tensor.grad = LIBRARIES[library](np.ones(3)).detach()
    optimizer.step()
    tensor.data = LIBRARIES[library](np.full(3, 5.0)).detach()
    tensor.grad = LIBRARIES[library](np.ones(3)).detach()
    optimizer.step()
    assert values(tensor).tolist() == [4, 4, 4]
    assert values(old).tolist() == [-1, -1, -1]
    optimizer.parameters[0].data = LIBRARIES[library](np.full(3, 9.0)).detach()
    assert values(tensor).tolist() == [9, 9, 9]


def test_other_memory_than_that_of_the_states_is_refused() -> None:
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.ones(2, 3)
    optimizer = roofstep.Adam(0.1, parameters=[weight])
    optimizer.step()
    weight.grad = None
    weight.data = torch.zeros(3, 2).t()
    weight.grad = torch.ones(2, 3)
    with refused(ValueError, "parameter 'param_0'", "states", "strides"):
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert float(weight.detach().max()) < 0


# The methods.


def test_clear_grad_and_zero_grad() -> None:
    for make in LIBRARIES.values():
        tensor = make(np.ones(3))
        optimizer = roofstep.SGD(0.1, [tensor])
        for clear in (optimizer.clear_grad, optimizer.zero_grad):
            tensor.grad = make(np.ones(3)).detach()
            clear()
            assert tensor.grad is None
        tensor.grad = make(np.ones(3)).detach()
        optimizer.clear_grad(set_to_zero=True)
        assert values(tensor.grad).tolist() == [0, 0, 0]


def test_minimize_calls_backward_and_drops_the_gradients() -> None:
    for make in LIBRARIES.values():
        tensor = make(np.array([3.0, 4.0]))
        optimizer = roofstep.SGD(0.25, [tensor])
        _, pairs = optimizer.minimize((tensor * tensor).sum())
        assert values(tensor).tolist() == [1.5, 2]
        assert tensor.grad is None
        ((parameter, gradient),) = pairs
        assert parameter is optimizer.parameters[0]
        assert parameter.data is tensor
        assert values(gradient).tolist() == [6, 8]
        (tensor * tensor).sum().backward()
        optimizer.minimize(None)  # by the gradients that are there, which stay
        assert values(tensor).tolist() == [0.75, 1]
        assert values(tensor.grad).tolist() == [3, 4]
        gradient = make(np.ones(2)).detach()
        optimizer.minimize(lambda gradient=gradient: (0.0, [gradient]))
        assert values(tensor).tolist() == [0.5, 0.75]
        assert values(tensor.grad).tolist() == [3, 4]  # these were the user's


def test_a_loss_that_fails_leaves_the_gradients_that_were_there() -> None:
    for make in LIBRARIES.values():
        kept, dropped = make(np.ones(2)), make(np.ones(2))
        kept.grad = make(np.ones(2)).detach()
        optimizer = roofstep.SGD(0.25, [kept, dropped])

        def loss(dropped: Any = dropped, make: Any = make) -> Any:
            dropped.grad = make(np.ones(2)).detach()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            optimizer.minimize(loss)
        assert dropped.grad is None
        assert values(kept.grad).tolist() == [1, 1]


def test_apply_gradients_takes_tensors_names_and_arrays() -> None:
    first, second = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    optimizer = roofstep.SGD(1.0)
    optimizer.apply_gradients([(first, torch.ones(2)), (second, np.ones(2, "float32"))])
    optimizer.apply_gradients([("param_1", torch.ones(2))])
    assert first.tolist() == [-1, -1]
    assert second.tolist() == [-2, -2]
    assert versions([first, second]) == [1, 2]
    with refused(ValueError, "no parameter of this optimizer", "param_0"):
        optimizer.apply_gradients([(torch.zeros(2), torch.ones(2))])


def test_groups() -> None:
    body, head, late = (torch.nn.Linear(2, 2) for _ in range(3))
    groups = roofstep.layerwise_lr_decay([list(body.parameters()), head.weight], 0.5)
    optimizer = roofstep.SGD(1.0, groups)
    optimizer.add_param_group({"params": late.weight, "learning_rate": 0.125})
    optimizer.add_param_group({"params": late.parameters().__next__().new_zeros(1)})
    tensors = [body.weight, body.bias, head.weight, late.weight]
    began = [values(tensor).copy() for tensor in tensors]
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    ends = map(values, tensors)
    moved = [float((old - new).mean()) for old, new in zip(began, ends, strict=True)]
    assert moved == pytest.approx([0.5, 0.5, 1, 0.125], rel=1e-6)
    assert [*optimizer._parameters] == [f"param_{i}" for i in range(5)]


def test_libraries_mix_in_one_optimizer() -> None:
    arrays = [numbers(65, 67).astype("float32"), numbers(5).astype("float32"), numbers(3, 2)]
    mixed = [torch_like(arrays[0]), paddle_like(arrays[1]), arrays[2].copy()]
    plain = [roofstep.Parameter(array.copy()) for array in arrays]
    settings = {"grad_clip": roofstep.ClipGradByGlobalNorm(1.0), "weight_decay": 0.1}
    tested = roofstep.AdamW(0.01, parameters=mixed, **settings)
    expected = roofstep.AdamW(0.01, parameters=plain, **settings)
    for _ in range(3):
        for parameter, array in zip(plain, arrays, strict=True):
            parameter.grad = array + 1
        mixed[0].grad = torch_like(arrays[0] + 1).detach()
        mixed[1].grad = paddle_like(arrays[1] + 1).detach()
        tested.parameters[2].grad = arrays[2] + 1
        tested.step(clear_grad=True)
        expected.step()
    assert same_bits(values(mixed[0]), plain[0].data)
    assert same_bits(values(mixed[1]), plain[1].data)
    assert same_bits(mixed[2], plain[2].data)
    assert mixed[0]._version == 3
    assert values(mixed[1].grad).tolist() == [0] * 5


def test_threads_give_the_same_bits_and_each_has_its_optimizer() -> None:
    array = numbers(300, 1001).astype("float32")
    tensors = [torch_like(array) for _ in range(3)]

    def train(tensor: Any) -> None:
        optimizer = roofstep.Adam(0.01, parameters=[tensor])
        for step in range(5):
            tensor.grad = torch.full_like(tensor, step + 1.0)
            optimizer.step(clear_grad=True)

    roofstep.set_num_threads(1)
    try:
        train(tensors[0])
    finally:
        roofstep.set_num_threads(None)
    workers = [threading.Thread(target=train, args=(tensor,)) for tensor in tensors[1:]]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for tensor in tensors[1:]:
        assert same_bits(values(tensor), values(tensors[0]))
        assert tensor._version == 5


def test_frozen_parameters_of_torch() -> None:
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    optimizer = roofstep.SGD(0.1, model.parameters())
    bias = model.bias.tolist()
    weight_version, bias_version = versions([model.weight, model.bias])
    optimizer.minimize(model(torch.ones(1, 3)).sum())
    assert model.bias.tolist() == bias
    assert versions([model.weight, model.bias]) == [weight_version + 1, bias_version]


# Saving and copying.


@pytest.mark.parametrize("library", LIBRARIES)
def test_state_dicts_go_on_bit_for_bit(library: str) -> None:
    twins = Twins(library, roofstep.NAdam, [numbers(4, 3).T, numbers(5)])
    twins.give([numbers(4, 3).T, numbers(5)])
    twins.step()
    saved = twins.tested.state_dict()
    if library == "paddle":
        assert {f"{t.name}_step_0" for t in twins.tensors} <= saved.keys()
    twins.step()
    after = [values(tensor).copy() for tensor in twins.tensors]
    for tensor, parameter, array in zip(
        twins.tensors, twins.parameters, (numbers(4, 3).T, numbers(5)), strict=True
    ):
        _core.as_numpy(tensor, "w")[...] = array
        parameter.data[...] = array
    begun = [values(tensor).copy() for tensor in twins.tensors]
    twins.tested.set_state_dict(twins.tested.state_dict() | saved)
    assert all(same_bits(values(t), a) for t, a in zip(twins.tensors, begun, strict=True))
    twins.expected.step()
    twins.tested.step()
    assert not any(same_bits(values(t), a) for t, a in zip(twins.tensors, after, strict=True))
    other = type(twins.tested)(0.5, parameters=twins.tensors)
    other.set_state_dict(saved)
    assert other.get_lr() == 0.01


def test_what_paddle_saved_is_read_by_the_names_of_its_parameters() -> None:
    layer = paddle.nn.Linear(3, 2)
    theirs = paddle.optimizer.Adam(0.01, parameters=layer.parameters())
    theirs.minimize(loss_of(layer, paddle.ones([1, 3])))
    ours = roofstep.Adam(0.01, parameters=layer.parameters())
    ours.set_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    assert ours._counts.tolist() == [1, 1]
    twin = copy.deepcopy(layer)
    follow = paddle.optimizer.Adam(0.01, parameters=layer.parameters())
    del follow
    continued = roofstep.Adam(0.01, parameters=twin.parameters())
    continued.set_state_dict(
        {
            key.replace(old.name, new.name): value.numpy()
            for old, new in zip(layer.parameters(), twin.parameters(), strict=True)
            for key, value in theirs.state_dict().items()
            if key.startswith(old.name)
        }
    )
    theirs.step()
    for old, new in zip(layer.parameters(), twin.parameters(), strict=True):
        new.grad = old.grad
    continued.step()
    for old, new in zip(layer.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(values(new), values(old), rtol=1e-6, atol=1e-7)


def loss_of(layer: Any, batch: Any) -> Any:
    loss = (layer(batch) ** 2).sum()
    if isinstance(batch, paddle.Tensor):
        loss.backward()
    return loss


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_deep_copy_has_tensors_of_its_own(library: str) -> None:
    tensor = LIBRARIES[library](numbers(4, 3).T)
    optimizer = roofstep.Adam(0.1, parameters=[tensor])
    optimizer.apply_gradients([(tensor, LIBRARIES[library](numbers(4, 3).T).detach())])
    again, twin = copy.deepcopy((tensor, optimizer))
    assert twin.parameters[0].data is again
    (name,) = optimizer._parameters
    assert [*twin._parameters] == [name] == [twin.parameters[0].name or name]
    gradient = LIBRARIES[library](numbers(4, 3).T).detach()
    twin.apply_gradients([(again, gradient)])
    assert not same_bits(values(again), values(tensor))
    optimizer.apply_gradients([(tensor, gradient)])
    assert same_bits(values(again), values(tensor))


def test_pickle() -> None:
    tensor = torch.nn.Parameter(torch.ones(4, 3).t())
    optimizer = roofstep.Adam(0.1, parameters=[tensor])
    optimizer.apply_gradients([(tensor, torch.ones(3, 4))])
    again = pickle.loads(pickle.dumps(optimizer))
    for one in (again, optimizer):
        one.apply_gradients([("param_0", torch.ones(3, 4))])
    assert same_bits(values(again.parameters[0].data), values(tensor))
    layer = paddle.nn.Linear(2, 2)
    with refused(TypeError, "pickle", layer.weight.name, "state_dict()"):
        pickle.dumps(roofstep.Adam(0.1, parameters=layer.parameters()))


# Clips and regularizers.


class Doubling(roofstep.ClipGradBase):
    """Returns new tensors, as a user's clip does."""

    def _dygraph_clip(self, params_grads: Any) -> Any:
        for parameter, gradient in params_grads:
            assert type(gradient).__module__.split(".")[0] in ("torch", "paddle", "numpy")
            assert parameter.need_clip
        return [(parameter, gradient * 2) for parameter, gradient in params_grads]


class Same(roofstep.ClipGradBase):
    """Returns the gradients themselves."""

    def _dygraph_clip(self, params_grads: Any) -> Any:
        return list(params_grads)


class TowardsOne(roofstep.WeightDecayRegularizer):
    """Works with the arrays of any library."""

    def __call__(self, param: Any, grad: Any, block: None = None) -> Any:
        assert type(grad) is type(param.data.detach()) or isinstance(grad, np.ndarray)
        return 0.5 * (param.data - 1)


class WithDetach(np.ndarray):  # type: ignore[type-arg]
    """NumPy's arrays under the one word of the tensors that `TowardsOne` needs."""

    def detach(self) -> Array:
        return np.asarray(self)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("clear_grad", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"grad_clip": Doubling()},
        {"grad_clip": Same()},
        {"weight_decay": TowardsOne()},
        {"weight_decay": TowardsOne(), "grad_clip": roofstep.ClipGradByGlobalNorm(0.5)},
        {"weight_decay": TowardsOne(), "grad_clip": roofstep.ClipGradByValue(0.5)},
        {"weight_decay": TowardsOne(), "rescale_grad": 0.5},
        {"weight_decay": roofstep.L1Decay(0.5), "grad_clip": roofstep.ClipGradByNorm(0.5)},
    ],
    ids=str,
)
def test_a_users_clip_and_regularizer(
    library: str, clear_grad: bool, settings: dict[str, Any]
) -> None:
    arrays = [numbers(5, 3), numbers(4), np.array(0.5)]
    twins = Twins(library, roofstep.Momentum, arrays, **settings)
    for parameter in twins.parameters:
        parameter.data = parameter.data.view(WithDetach)
    twins.give([np.asarray(array + 1) for array in arrays])
    held = [tensor.grad for tensor in twins.tensors]
    twins.step(clear_grad=clear_grad)
    for tensor, parameter in zip(twins.tensors, twins.parameters, strict=True):
        assert same_bits(values(tensor), np.asarray(parameter.data))
    assert all(bool((values(grad) == 0).all()) is clear_grad for grad in held)


@pytest.mark.parametrize("library", LIBRARIES)
def test_built_in_clips_and_regularizers_can_be_called(library: str) -> None:
    make = LIBRARIES[library]
    optimizer = roofstep.SGD(0.1, [make(np.array([3.0, -4.0]))])
    (parameter,) = optimizer.parameters
    term = roofstep.L2Decay(0.5)(parameter)
    assert type(term) is type(make(np.zeros(1)).detach())
    assert values(term).tolist() == [1.5, -2]
    gradient = make(np.array([3.0, 4.0])).detach()
    ((_, clipped),) = roofstep.ClipGradByNorm(2.5)([(parameter, gradient)])
    assert type(clipped) is type(gradient)
    assert values(clipped).tolist() == [1.5, 2]
    ((_, clipped),) = roofstep.ClipGradByNorm(9.0)([(parameter, gradient)])
    assert clipped is gradient


# What Paddle's tensors carry.


def test_the_settings_of_paddles_parameters_are_those_of_the_moment() -> None:
    attr = paddle.ParamAttr(
        learning_rate=0.5, regularizer=paddle.regularizer.L2Decay(0.25), need_clip=False
    )
    attr.name = "test_tensors_w"
    tensor = paddle.create_parameter([2], "float64", attr=attr)
    tensor.set_value(paddle.to_tensor([2.0, 4.0], "float64"))
    optimizer = roofstep.SGD(1.0, [tensor], grad_clip=roofstep.ClipGradByValue(0.5))
    (parameter,) = optimizer.parameters
    assert parameter.name == "test_tensors_w"
    assert (parameter.learning_rate, parameter.need_clip, parameter.trainable) == (0.5, False, True)

    def step() -> list[float]:
        tensor.set_value(paddle.to_tensor([2.0, 4.0], "float64"))
        optimizer.apply_gradients([(tensor, paddle.ones([2], "float64"))])
        return list(values(tensor).tolist())

    assert step() == [2 - 0.5 * 1.5, 4 - 0.5 * 2]
    tensor.optimize_attr["learning_rate"] = 1.0
    assert step() == [0.5, 2]
    tensor.need_clip = True
    assert step() == [1, 2.5]
    tensor.regularizer = paddle.regularizer.L1Decay(0.25)
    assert step() == [1.25, 3.25]
    tensor.regularizer = TowardsZero()
    assert step() == [0.5, 1.5]
    tensor.regularizer = None
    assert step() == [1.5, 3.5]
    tensor.stop_gradient = True
    assert step() == [2, 4]
    tensor.trainable = True
    assert step() == [1.5, 3.5]
    tensor.regularizer = "much"
    with refused(TypeError, "regularizer of 'test_tensors_w'", "much"):
        step()


class TowardsZero(paddle.regularizer.WeightDecayRegularizer):  # type: ignore[misc]
    """Written for Paddle."""

    def __call__(self, param: Any, grad: Any, block: Any = None) -> Any:
        assert isinstance(param, paddle.Tensor)
        return paddle.scale(param.detach(), 0.5)


# Training.


def test_training_in_torch_follows_torchs_own_adam() -> None:
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    ).to(memory_format=torch.channels_last)
    twin = copy.deepcopy(model)
    batch, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 10
    ours = roofstep.AdamW(
        0.01,
        parameters=model.parameters(),
        weight_decay=0.1,
        grad_clip=roofstep.ClipGradByGlobalNorm(1.0),
    )
    theirs = torch.optim.AdamW(twin.parameters(), 0.01, weight_decay=0.1)
    losses = []
    for _ in range(30):
        loss, other = (torch.nn.functional.cross_entropy(m(batch), labels) for m in (model, twin))
        ours.clear_grad()
        theirs.zero_grad()
        loss.backward()
        other.backward()
        ours.step()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        theirs.step()
        losses.append(loss.item())
        assert loss.item() == pytest.approx(other.item(), abs=2e-4)
    assert losses[-1] < 0.2 < losses[0]


def test_training_in_paddle_follows_paddles_own_adam() -> None:
    paddle.seed(1)
    model = paddle.nn.Sequential(
        paddle.nn.Linear(16, 32), paddle.nn.ReLU(), paddle.nn.Linear(32, 4)
    )
    twin = copy.deepcopy(model)
    batch, labels = paddle.randn([32, 16]), paddle.arange(32) % 4
    settings = {"learning_rate": 0.01, "weight_decay": 0.1}
    ours = roofstep.Adam(parameters=model.parameters(), **settings)
    theirs = paddle.optimizer.Adam(parameters=twin.parameters(), **settings)
    losses = []
    for _ in range(30):
        loss, other = (paddle.nn.functional.cross_entropy(m(batch), labels) for m in (model, twin))
        loss.backward()
        other.backward()
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.clear_grad()
        losses.append(float(loss))
        assert float(loss) == pytest.approx(float(other), abs=2e-4)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_gives_the_bits_of_numpy(library: str, search: str | None) -> None:
    begin = [np.array([-1.0, 2.0]), np.array([[3.0]])]
    tensors = [LIBRARIES[library](array) for array in begin]
    plain = [roofstep.Parameter(array.copy()) for array in begin]
    settings = {"line_search_fn": search, "weight_decay": 0.125, "learning_rate": 0.5}
    tested = roofstep.LBFGS(parameters=tensors, **settings)
    expected = roofstep.LBFGS(parameters=plain, **settings)

    def closure() -> Any:
        tested.clear_grad()
        loss = ((tensors[0] - 2) ** 2).sum() + ((tensors[1] + 1) ** 2).sum()
        loss.backward()
        return loss

    def own() -> float:
        first, second = (parameter.data for parameter in plain)
        plain[0].grad, plain[1].grad = 2 * (first - 2), 2 * (second + 1)
        return float(((first - 2) ** 2).sum() + ((second + 1) ** 2).sum())

    tested.step(closure)
    expected.step(own)
    for tensor, parameter in zip(tensors, plain, strict=True):
        np.testing.assert_allclose(values(tensor), parameter.data, rtol=1e-12)
    if library == "torch":
        assert tensors[0]._version > 0

    def moves() -> Any:
        closure()
        tensors[0].data = LIBRARIES[library](begin[0]).detach()
        return 0.0

    with refused(RuntimeError, "from the closure"):
        tested.step(moves)


# Nothing is imported that was not there.


def test_no_library_is_imported_unless_its_tensors_come() -> None:
    program = """
import sys
import numpy as np
import roofstep

w = roofstep.Parameter(np.ones(3))
w.grad = np.ones(3)
roofstep.Adam(parameters=[w]).step()
assert not {"torch", "paddle", "roofstep.torch", "roofstep.paddle"} & {*sys.modules}
import torch
roofstep.Adam(parameters=torch.nn.Linear(2, 2).parameters())
assert "roofstep.torch" in sys.modules
assert not {"paddle", "roofstep.paddle"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")  # of Paddle itself
@pytest.mark.parametrize("library", LIBRARIES)
def test_docstring_examples(library: str) -> None:
    package = importlib.import_module(f"roofstep.{library}")
    attempted = 0
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        found = doctest.testmod(importlib.import_module(module.name))
        assert found.failed == 0
        attempted += found.attempted
    assert attempted > 0


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    yield
    roofstep.set_num_threads(None)


def test_settings_of_a_bare_paddle_tensor_take_effect() -> None:
    """One that no layer has made lacks Paddle's attributes until somebody sets them."""
    tensor = paddle.to_tensor(np.ones(3, np.float32), stop_gradient=False)
    (tensor * 1.0).sum().backward()
    clip = roofstep.ClipGradByGlobalNorm(0.1)
    optimizer = roofstep.SGD(0.5, [tensor], grad_clip=clip)
    before = tensor.numpy().copy()
    optimizer.step()
    assert np.abs(before - tensor.numpy()).max() < 0.05
    tensor.need_clip = False
    before = tensor.numpy().copy()
    optimizer.step()
    np.testing.assert_allclose(before - tensor.numpy(), 0.5)
    tensor.optimize_attr = {"learning_rate": 2.0}
    before = tensor.numpy().copy()
    optimizer.step()
    np.testing.assert_allclose(before - tensor.numpy(), 1.0)


def test_a_method_that_a_subclass_of_tensors_makes_anew_is_asked() -> None:
    """What is asked of a tensor is looked up on it, not kept from another look."""

    class Own(torch.Tensor):
        @classmethod
        def is_neg(cls, self: object = None) -> bool:
            return False

    tensor = torch.ones(1).as_subclass(Own).requires_grad_()
    tensor.grad = torch.ones(1).as_subclass(Own)
    optimizer = roofstep.SGD(0.5, [tensor])
    for _ in range(100):
        optimizer.step()
    assert tensor.item() == 1 - 50
