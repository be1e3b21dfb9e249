"""Sparse gradients of torch and Paddle: beside the libraries' own optimizers, and refusals."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import roofstep
from harness import paddle

Array = np.ndarray[Any, Any]

HEIGHT, WIDTH, STEPS = 40, 9, 5
TINY = 1e-30  # an epsilon that no result depends on: torch's SparseAdam has it in another place

RNG = np.random.default_rng(7)
START = RNG.standard_normal((HEIGHT, WIDTH))
LOOKED_UP = RNG.integers(0, HEIGHT, (STEPS, 25))  # some rows several times, and never all
WEIGHTS = RNG.standard_normal((STEPS, 25, WIDTH))


def torch_layer(dtype: str, sparse: bool = True) -> Any:
    weight = torch.tensor(START, dtype=getattr(torch, dtype))
    return torch.nn.Embedding.from_pretrained(weight, freeze=False, sparse=sparse)


def torch_loss(layer: Any, step: int) -> Any:
    found = layer(torch.from_numpy(LOOKED_UP[step]))
    return (found * torch.from_numpy(WEIGHTS[step]).to(found.dtype)).sum()


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """torch warns once in a process that what nobody has asked for is not checked."""
    before = torch.sparse.check_sparse_tensor_invariants.is_enabled()
    torch.sparse.check_sparse_tensor_invariants.disable()
    yield
    if before:
        torch.sparse.check_sparse_tensor_invariants.enable()


def torch_run(make: Callable[[Any], Any], dtype: str, sparse: bool = True) -> Array:
    layer = torch_layer(dtype, sparse)
    optimizer = make(layer.parameters())
    for step in range(STEPS):
        optimizer.zero_grad()
        torch_loss(layer, step).backward()
        optimizer.step()
    found: Array = layer.weight.detach().numpy()
    return found


def paddle_layer(dtype: str, sparse: bool = True) -> Any:
    layer = paddle.nn.Embedding(HEIGHT, WIDTH, sparse=sparse)
    if dtype == "float64":
        layer = layer.to(dtype="float64")
    layer.weight.set_value(START.astype(dtype))
    return layer


def paddle_loss(layer: Any, step: int) -> Any:
    found = layer(paddle.to_tensor(LOOKED_UP[step]))
    return (found * paddle.to_tensor(WEIGHTS[step].astype(START.dtype)).cast(found.dtype)).sum()


def paddle_run(make: Callable[[Any], Any], dtype: str, sparse: bool = True) -> Array:
    layer = paddle_layer(dtype, sparse)
    optimizer = make(layer.parameters())
    for step in range(STEPS):
        paddle_loss(layer, step).backward()
        optimizer.step()
        optimizer.clear_grad()
    found: Array = layer.weight.numpy()
    return found


def ulps(a: Array, b: Array) -> float:
    """The largest difference, in units of the last place of the number or of how far it can go."""
    size = np.maximum(np.abs(b), 0.1 * STEPS).astype(b.dtype)
    return float((np.abs(a - b) / np.spacing(size)).max())


Case = tuple[Callable[[Any], Any], Callable[[Any], Any], float]
TORCH: dict[str, Case] = {
    "SGD": (lambda p: torch.optim.SGD(p, 0.1), lambda p: roofstep.SGD(0.1, p), 4),
    "Adagrad": (
        lambda p: torch.optim.Adagrad(p, 0.1, eps=1e-6),
        lambda p: roofstep.Adagrad(0.1, 1e-6, p),
        4,
    ),
    "SparseAdam": (
        lambda p: torch.optim.SparseAdam(list(p), 0.1, eps=TINY),
        lambda p: roofstep.Adam(0.1, epsilon=TINY, parameters=p, lazy_mode=True),
        13,  # float64: torch takes 1 - beta2**t in one rounding, of which 1 / 1000 is left
    ),
}
P, R = paddle.optimizer, roofstep
PADDLE: dict[str, Case] = {
    "SGD": (lambda p: P.SGD(0.125, p), lambda p: R.SGD(0.125, p), 4),
    "SGD with decay": (
        lambda p: P.SGD(0.125, p, weight_decay=0.25),
        lambda p: R.SGD(0.125, p, weight_decay=0.25),
        4,
    ),
    "SGD under a global norm": (
        lambda p: P.SGD(0.125, p, grad_clip=paddle.nn.ClipGradByGlobalNorm(0.5)),
        lambda p: R.SGD(0.125, p, grad_clip=R.ClipGradByGlobalNorm(0.5)),
        2,
    ),
    "Adagrad": (
        lambda p: P.Adagrad(0.125, 2**-20, p),
        lambda p: R.Adagrad(0.125, 2**-20, p),
        4,
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", TORCH)
def test_torchs_sparse_optimizers(case: str, dtype: str) -> None:
    theirs, ours, most = TORCH[case]
    assert ulps(torch_run(ours, dtype), torch_run(theirs, dtype)) <= most


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", PADDLE)
def test_paddles_sparse_optimizers(case: str, dtype: str) -> None:
    theirs, ours, most = PADDLE[case]
    assert ulps(paddle_run(ours, dtype), paddle_run(theirs, dtype)) <= most


@pytest.mark.parametrize("run", [torch_run, paddle_run])
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "AdamW"])
def test_sparse_layers_learn_as_dense_ones(name: str, run: Callable[..., Array]) -> None:
    """Within the order in which a library adds up what belongs to one row."""

    def make(parameters: Any) -> Any:
        return getattr(roofstep, name)(0.1, parameters=parameters)

    results = [run(make, "float64", sparse) for sparse in (True, False)]
    assert ulps(*results) < 200  # a gradient may be next to nothing, and its sign is all then


@pytest.mark.parametrize("library", ["torch", "paddle"])
def test_the_bits_of_numpy(library: str) -> None:
    """Of a sparse tensor as it is, and of one in which each row is there once."""
    layer = torch_layer("float32") if library == "torch" else paddle_layer("float32")
    loss = torch_loss if library == "torch" else paddle_loss
    weight = roofstep.Parameter(START.astype("float32"))
    optimizers = [
        roofstep.AdamW(0.1, parameters=parameters, lazy_mode=True)
        for parameters in (layer.parameters(), [weight])
    ]
    for step in range(STEPS):
        loss(layer, step).backward()
        rows, values = LOOKED_UP[step], WEIGHTS[step].astype("float32")
        if library == "torch" and step % 2:
            layer.weight.grad = merged = layer.weight.grad.coalesce()
            rows, values = merged.indices()[0].numpy(), merged.values().numpy()
        weight.grad = roofstep.SelectedRows(rows, values)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.clear_grad()
    assert np.asarray(layer.weight.detach()).tobytes() == weight.data.tobytes()


def test_minimize_keeps_paddles_rows_and_drops_the_gradient() -> None:
    layer = paddle_layer("float32")
    optimizer = roofstep.Adam(0.1, parameters=layer.parameters(), lazy_mode=True)
    for step in range(2):
        _, [(parameter, gradient)] = optimizer.minimize(paddle_loss(layer, step))
        assert parameter.data is layer.weight
        assert layer.weight.grad is None
        assert gradient.rows.tolist() == LOOKED_UP[step].tolist()
        assert (gradient.values == WEIGHTS[step].astype("float32")).all()
    optimizer.apply_gradients([(parameter, gradient)])
    assert optimizer.state_dict()[f"{layer.weight.name}_step_0"] == 3


def test_minimize_in_torch() -> None:
    layer = torch_layer("float32")
    optimizer = roofstep.Adam(0.1, parameters=layer.parameters(), lazy_mode=True)
    before = layer.weight.detach().clone()
    _, [(_, gradient)] = optimizer.minimize(torch_loss(layer, 0))
    assert gradient.is_sparse
    assert layer.weight.grad is None
    moved = (layer.weight != before).any(dim=1).nonzero().flatten()
    assert moved.tolist() == np.unique(LOOKED_UP[0]).tolist()


def test_rows_in_numpy_for_a_tensor() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 2))
    rows = roofstep.SelectedRows(np.array([2]), np.ones((1, 2), "float32"))
    roofstep.SGD(0.5, [weight]).apply_gradients([(weight, rows)])
    assert weight.tolist() == [[1, 1], [1, 1], [0.5, 0.5]]


def test_a_stale_backward_raises_after_a_sparse_step() -> None:
    layer = torch_layer("float32")
    optimizer = roofstep.SGD(0.1, layer.parameters())
    torch_loss(layer, 0).backward()
    stale = (layer.weight * layer.weight).sum()
    version = layer.weight._version
    optimizer.step()
    assert layer.weight._version == version + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stale.backward()


def test_a_layer_that_was_given_nothing() -> None:
    """No rows are a step of which nothing is seen but the count."""
    layer = torch_layer("float32")
    optimizer = roofstep.Adam(0.1, parameters=layer.parameters())
    layer(torch.zeros(0, dtype=torch.int64)).sum().backward()
    optimizer.step()
    assert (layer.weight.detach().numpy() == START.astype("float32")).all()
    assert optimizer.state_dict()["param_0_step_0"] == 1


def refused(act: Callable[..., Any], *parts: str) -> None:
    """The message has all of these, in this order."""
    with pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, parts))):
        act()


def compressed() -> Any:
    with warnings.catch_warnings():  # torch says once in a process that these are in beta
        warnings.simplefilter("ignore")
        return torch.eye(3, 2).to_sparse_csr()


def coo(rows: list[int], *shape: int, **options: Any) -> Any:
    values = torch.ones(len(rows), *shape[1:], **options)
    return torch.sparse_coo_tensor([rows], values, shape, check_invariants=False)


TORCH_REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "elements": (lambda: torch.eye(3, 2).to_sparse(), ("sparse_dim 1", "sparse_dim 2", "to_dense")),
    "compressed": (compressed, ("sparse COO", "sparse_csr", "to_dense()")),
    "of another height": (lambda: coo([1], 4, 2), ("3 rows in all, got 4",)),
    "of another width": (lambda: coo([1], 3, 3), ("the shape (1, 2), got (1, 3)",)),
    "of another dtype": (lambda: coo([1], 3, 2, dtype=torch.float64), ("float32", ".float()")),
    "half": (lambda: coo([1], 3, 2, dtype=torch.float16), ("dtype float32", "torch.float16")),
    "out of range": (lambda: coo([3], 3, 2), ("row numbers from 0 to 2, got 3",)),
    "negative": (lambda: coo([-1], 3, 2), ("row numbers from 0 to 2, got -1",)),
    "elsewhere": (
        lambda: torch.sparse_coo_tensor(size=(3, 2), device="meta"),
        ("a dense tensor in the memory of the CPU", "meta"),
    ),
}


@pytest.mark.parametrize("case", TORCH_REFUSED)
def test_gradients_that_do_not_fit(case: str) -> None:
    make, parts = TORCH_REFUSED[case]
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = roofstep.Adam(0.1, parameters=[weight])
    gradient = make()
    refused(lambda: optimizer.apply_gradients([(weight, gradient)]), "parameter 'param_0'", *parts)
    assert weight.tolist() == [[1, 1]] * 3


def test_a_transposed_parameter_is_refused() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3).t())
    optimizer = roofstep.SGD(0.1, [weight])
    act = lambda: optimizer.apply_gradients([(weight, coo([1], 3, 2))])  # noqa: E731
    refused(act, "parameter 'param_0'", "memory in C order", "tensor.data.contiguous()")


@pytest.mark.parametrize("library", ["torch", "paddle"])
def test_optimizers_without_sparse_gradients_refuse(library: str) -> None:
    layer = torch_layer("float32") if library == "torch" else paddle_layer("float32")
    loss = torch_loss if library == "torch" else paddle_loss
    optimizer = roofstep.Momentum(0.1, parameters=layer.parameters())
    message = ("the gradient of parameter", "dense", "sparse=False", "SGD, Adagrad, Adam and AdamW")
    refused(lambda: optimizer.minimize(loss(layer, 0)), *message)
    assert layer.weight.grad is None
    loss(layer, 0).backward()
    refused(optimizer.step, *message)
    adam = roofstep.Adam(0.1, parameters=layer.parameters())
    refused(lambda: adam.step(clear_grad=True), "zeroed", "clear_grad()")
    refused(lambda: adam.clear_grad(set_to_zero=True), "sparse")
    adam.clear_grad()
    assert layer.weight.grad is None
    assert (np.asarray(layer.weight.detach()) == START.astype("float32")).all()
