"""Pytrees of NumPy arrays stepped by JAX's gradients: optax's numbers, no copies, no races."""

from __future__ import annotations

import doctest
import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import roofstep
import roofstep.jax

Array = np.ndarray[Any, Any]


def refused(error: type[Exception], *parts: str) -> Any:
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


def tree(dtype: str = "float32") -> dict[str, Any]:
    """Parameters of two layers, as flax nests them, with a list and a scalar among them."""
    rng = np.random.default_rng(0)
    return {
        "params": {
            "dense_0": {"kernel": rng.normal(0, 0.5, (4, 8)).astype(dtype)},
            "heads": [rng.normal(0, 0.5, (8, 3)).astype(dtype), np.zeros(3, dtype)],
        },
        "scale": np.ones((), dtype),
    }


def loss(params: Any, x: Any, y: Any) -> Any:
    kernel, bias = params["params"]["heads"]
    hidden = jnp.tanh(x @ params["params"]["dense_0"]["kernel"]) * params["scale"]
    return jnp.mean((hidden @ kernel + bias - y) ** 2)


def batch(dtype: str = "float32") -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(16, 4)).astype(dtype), rng.normal(size=(16, 3)).astype(dtype)


def made(
    params: Any, cls: Any = roofstep.SGD, rate: float = 0.5, **settings: Any
) -> roofstep.Optimizer:
    optimizer: roofstep.Optimizer = cls(
        rate, parameters=roofstep.jax.parameters(params), **settings
    )
    return optimizer


def test_names_are_paths() -> None:
    params = tree()
    found = roofstep.jax.parameters(params)
    names = ["params/dense_0/kernel", "params/heads/0", "params/heads/1", "scale"]
    assert [parameter.name for parameter in found] == names
    assert all(
        parameter.data is leaf
        for parameter, leaf in zip(found, jax.tree.leaves(params), strict=True)
    )


def test_a_bare_array_is_a_tree() -> None:
    w = np.array([3.0], "float32")
    roofstep.jax.apply_gradients(made(w), jax.grad(lambda w: (w**2).sum())(w))
    assert w == [0.0]


# The optimizers, and how far apart a weight may be after 20 steps, in ULPs of the largest of its
# tensor. That of Adam is optax's: it computes 1 - beta2**t in the dtype, where most digits cancel.
PEERS: dict[str, tuple[Callable[[], Any], Any, dict[str, Any], int]] = {
    "sgd": (lambda: optax.sgd(0.1), roofstep.SGD, {}, 0),
    "momentum": (lambda: optax.sgd(0.1, 0.9), roofstep.Momentum, {"momentum": 0.9}, 0),
    "nesterov": (
        lambda: optax.sgd(0.1, 0.9, nesterov=True),
        roofstep.Momentum,
        {"momentum": 0.9, "use_nesterov": True},
        0,
    ),
    "adam": (lambda: optax.adam(0.1), roofstep.Adam, {}, 160),
    "adamw": (
        lambda: optax.adamw(0.1, weight_decay=0.1),
        roofstep.AdamW,
        {"weight_decay": 0.1},
        160,
    ),
    "clipped": (
        lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1)),
        roofstep.Adam,
        {"grad_clip": roofstep.ClipGradByGlobalNorm(0.5)},
        160,
    ),
}


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    """One that JAX computes in while the test runs."""
    jax.config.update("jax_enable_x64", request.param == "float64")
    yield request.param
    jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("name", PEERS)
def test_the_numbers_of_optax(name: str, dtype: str, jit: bool) -> None:
    make, cls, settings, limit = PEERS[name]
    x, y = batch(dtype)
    gradient = jax.jit(jax.grad(loss)) if jit else jax.grad(loss)
    params, theirs = tree(dtype), jax.tree.map(jnp.array, tree(dtype))
    optimizer, transformation = made(params, cls, 0.1, **settings), make()
    state = transformation.init(theirs)
    for _ in range(20):
        grads = gradient(params, x, y)  # for both: a tiny difference grows from step to step
        roofstep.jax.apply_gradients(optimizer, grads)
        moves, state = transformation.update(grads, state, theirs)
        theirs = optax.apply_updates(theirs, moves)
    for ours, peer in zip(jax.tree.leaves(params), jax.tree.leaves(theirs), strict=True):
        assert ours.dtype == peer.dtype == dtype
        ulps = np.abs(ours - np.asarray(peer)) / np.spacing(np.abs(ours).max())
        assert ulps.max() <= limit


def test_gradients_are_read_where_jax_put_them() -> None:
    class Watched(roofstep.Adam):
        def apply_gradients(self, params_grads: Any) -> list[Any]:
            self.given = dict(params_grads)
            return super().apply_gradients(params_grads)

    params = tree()
    optimizer = made(params, Watched)
    grads = jax.grad(loss)(params, *batch())
    roofstep.jax.apply_gradients(optimizer, grads)
    assert len(optimizer.given) == 4
    for gradient, leaf in zip(optimizer.given.values(), jax.tree.leaves(grads), strict=True):
        assert gradient.ctypes.data == leaf.unsafe_buffer_pointer()


def test_none_and_frozen_parameters_stay() -> None:
    a, b, d = np.ones(2, "float32"), np.ones(2, "float32"), np.ones(1, "float32")
    params = {"a": a, "b": b, "c": None, "d": [d]}
    found = roofstep.jax.parameters(params)
    assert [p.name for p in found] == ["a", "b", "d/0"]
    found[2].trainable = False
    one = jnp.ones(2)
    grads = {"a": None, "b": one, "c": None, "d": [one[:1]]}
    roofstep.jax.apply_gradients(roofstep.SGD(0.5, parameters=found), grads)
    assert [p.data.tolist() for p in found] == [[1, 1], [0.5, 0.5], [1]]


def test_a_weak_type_is_a_type() -> None:
    params = {"w": np.ones((), "float32")}
    gradient = jnp.asarray(2.0)
    assert gradient.weak_type
    roofstep.jax.apply_gradients(made(params), {"w": gradient})
    assert params["w"] == 0


def test_numpy_gradients_of_the_same_tree() -> None:
    params = {"w": np.ones(3, "float32")}
    roofstep.jax.apply_gradients(made(params), {"w": np.ones(3, "float32")})
    assert params["w"].tolist() == [0.5] * 3


def test_training_goes_on_from_a_state_dict() -> None:
    gradient = jax.jit(jax.grad(loss))
    params = tree()
    optimizer = made(params, roofstep.AdamW, 0.01)
    for _ in range(3):
        roofstep.jax.apply_gradients(optimizer, gradient(params, *batch()))
    saved = optimizer.state_dict()
    assert any("params/dense_0/kernel" in key for key in saved)
    resumed = jax.tree.map(np.array, params)
    other = made(resumed, roofstep.AdamW, 0.5)
    other.set_state_dict(saved)
    for both in ((optimizer, params), (other, resumed)):
        for _ in range(3):
            roofstep.jax.apply_gradients(both[0], gradient(both[1], *batch()))
    same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), params, resumed)
    assert jax.tree.all(same)


def deleted() -> jax.Array:
    array = jnp.ones(3)
    array.delete()
    return array


def donated() -> jax.Array:
    array = jnp.ones(3)
    jax.jit(lambda x: x + 1, donate_argnums=0)(array)
    return array


def one() -> jax.Array:
    return jnp.ones(3)


REFUSALS: dict[str, tuple[Callable[[], Any], type[Exception], tuple[str, ...]]] = {
    "a path is missing": (
        lambda: {"a": one()},
        ValueError,
        ("each of 2 parameters", "none for 'b/w'", "parameters=roofstep.jax.parameters(params)"),
    ),
    "another path": (
        lambda: {"a": one(), "b": {"w": one(), "bias": one()}},
        ValueError,
        ("one for 'b/bias', which is no parameter", "trainable=False"),
    ),
    "another tree": (
        lambda: [one(), one()],
        ValueError,
        ("none for 'a' and one for '0'",),
    ),
    "none of a whole branch": (lambda: {"a": one(), "b": None}, ValueError, ("none for 'b/w'",)),
    "shape": (
        lambda: {"a": one(), "b": {"w": jnp.ones((3, 1))}},
        ValueError,
        ("parameter 'b/w'", "shape (3,), got (3, 1)"),
    ),
    **{
        dtype: (
            lambda dtype=dtype: {"a": one(), "b": {"w": one().astype(dtype)}},
            ValueError,
            ("parameter 'b/w'", f"expected dtype float32 or float64, got {dtype}", "astype"),
        )
        for dtype in ("bfloat16", "float16", "int32")
    },
    "deleted": (
        lambda: {"a": one(), "b": {"w": deleted()}},
        ValueError,
        ("parameter 'b/w'", "deleted or donated", "compute it anew"),
    ),
    "donated": (
        lambda: {"a": one(), "b": {"w": donated()}},
        ValueError,
        ("parameter 'b/w'", "deleted or donated", "compute it anew"),
    ),
    "no array": (
        lambda: {"a": one(), "b": {"w": 1.0}},
        TypeError,
        ("parameter 'b/w'", "got float", "numpy.asarray"),
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_gradients_are_refused_before_anything_is_written(case: str) -> None:
    make, error, parts = REFUSALS[case]
    params = {"a": np.ones(3, "float32"), "b": {"w": np.ones(3, "float32")}}
    optimizer = made(params, roofstep.Adam)
    with refused(error, *parts):
        roofstep.jax.apply_gradients(optimizer, make())
    assert params["a"].tolist() == params["b"]["w"].tolist() == [1, 1, 1]
    roofstep.jax.apply_gradients(optimizer, {"a": one(), "b": {"w": one()}})
    np.testing.assert_allclose(params["a"], 0.5, rtol=1e-6)  # the first step of Adam


def test_tracers_are_refused() -> None:
    params = {"w": np.ones(3, "float32")}
    optimizer = made(params)
    with refused(TypeError, "parameter 'w'", "got a tracer", "outside jax.jit"):
        jax.jit(lambda g: roofstep.jax.apply_gradients(optimizer, {"w": g}))(one())


def test_gradients_of_float64_parameters_in_float32_are_refused() -> None:
    params = {"w": np.ones(3)}
    with refused(ValueError, "parameter 'w'", "dtype float64, got float32"):
        roofstep.jax.apply_gradients(made(params), jax.grad(lambda p: p["w"].sum())(params))


def test_gradients_over_the_memory_of_parameters_are_refused() -> None:
    params = {"w": placed(0)}
    shared = jax.device_put(params["w"])
    assert shared.unsafe_buffer_pointer() == params["w"].ctypes.data
    with refused(ValueError, "'w'", "overlap"):
        roofstep.jax.apply_gradients(made(params), {"w": shared})


@pytest.mark.parametrize(
    "make",
    [
        lambda: roofstep.Adam(parameters=[one()]),
        lambda: roofstep.Adam(parameters=[{"params": [one()]}]),
        lambda: roofstep.Parameter(one()),
        lambda: roofstep.jax.parameters(one()),
    ],
    ids=["list", "group", "Parameter", "parameters"],
)
def test_arrays_of_jax_are_refused_as_parameters(make: Callable[[], Any]) -> None:
    with refused(TypeError, "got one of JAX", "jax.tree.map(numpy.array, params)"):
        make()


def test_a_tree_of_jax_is_refused_by_path() -> None:
    with refused(TypeError, "parameter 'a/b'", "got one of JAX", "jax.tree.map(numpy.array"):
        roofstep.jax.parameters({"a": {"b": one()}})
    with refused(TypeError, "got a dict", "roofstep.jax.parameters(tree)"):
        roofstep.Adam(parameters={"a": one()})


def test_arrays_of_jax_are_refused_on_plain_parameters() -> None:
    parameter = roofstep.Parameter(np.ones(3, "float32"), name="w")
    optimizer = roofstep.SGD(0.5, parameters=[parameter])
    parameter.grad = one()
    with refused(TypeError, "gradient of parameter 'w'", "roofstep.jax.apply_gradients"):
        optimizer.step()
    with refused(TypeError, "gradient of parameter 'w'", "roofstep.jax.apply_gradients"):
        optimizer.apply_gradients([("w", one())])
    parameter.data = one()
    with refused(TypeError, "parameter 'w'", "jax.tree.map(numpy.array, params)"):
        optimizer.apply_gradients([("w", np.ones(3, "float32"))])


def test_gradients_on_other_devices_are_refused() -> None:
    """On two at once; one of a GPU is refused by the same condition, and none is here."""
    program = """
import jax, numpy as np, roofstep.jax
from jax.sharding import NamedSharding, PartitionSpec
params = {"w": np.ones(4, "float32")}
optimizer = roofstep.SGD(0.5, parameters=roofstep.jax.parameters(params))
first, second = jax.devices()
roofstep.jax.apply_gradients(optimizer, {"w": jax.device_put(np.ones(4, "float32"), second)})
mesh = jax.make_mesh((2,), ("x",))
for spec in (PartitionSpec("x"), PartitionSpec()):
    gradient = jax.device_put(np.ones(4, "float32"), NamedSharding(mesh, spec))
    try:
        roofstep.jax.apply_gradients(optimizer, {"w": gradient})
    except ValueError as error:
        assert "'w': expected an array of JAX on one CPU device, got one on" in str(error), error
        assert "jax.device_put(grads, jax.devices('cpu')[0])" in str(error), error
    else:
        raise AssertionError("it was taken")
assert params["w"].tolist() == [0.5] * 4
"""
    flags = "--xla_force_host_platform_device_count=2"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        check=True,
        env={**os.environ, "XLA_FLAGS": flags},
    )


def placed(offset: int, size: int = 1 << 18) -> Array:
    """Zeros at an offset from a multiple of 64 bytes: at 0 JAX reads them in place."""
    memory = np.zeros(4 * size + 128, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    return memory[begin : begin + 4 * size].view("float32")


@jax.jit
def later(zeros: Any) -> Any:
    """The same, when some 10 ms have gone by."""
    return jax.lax.fori_loop(0, 20, lambda _, m: m @ m * 1e-3, zeros)


@jax.jit
def evaluate(params: Any, delay: Any) -> Any:
    """The smallest and the largest weight, read when the delay is there.

    It must come of another call: XLA may compute at once what has all that it needs.
    """
    weights = params["w"] + 0 * delay[0, 0]
    return weights.min(), weights.max()


ZEROS = np.zeros((384, 384), "float32")


def stale(params: Any, optimizer: roofstep.Optimizer, rounds: int) -> int:
    """How often what was being computed while a step was due did not see the weights of then."""
    grads = {"w": jax.block_until_ready(jnp.full(params["w"].shape, -1.0))}
    wrong = 0
    for _ in range(rounds):
        before = float(params["w"][0])
        seen = evaluate(params, later(ZEROS))
        roofstep.jax.apply_gradients(optimizer, grads)
        assert params["w"][0] == before + 1
        wrong += [*map(float, seen)] != [before, before]
    return wrong


@pytest.mark.parametrize("offset", [0, 16], ids=["read in place", "copied by JAX"])
def test_nothing_is_written_while_jax_reads(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"w": placed(offset)}
    optimizer = made(params, rate=1.0)
    assert stale(params, optimizer, 100) == 0
    if offset == 0:  # and this test would see it
        monkeypatch.setattr(roofstep.jax, "_wait", lambda: None)
        assert stale(params, optimizer, 5) > 0


@pytest.mark.parametrize("waits", [True, False])
def test_nothing_is_written_before_jax_has_called_back(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a function whose result nobody holds, there is a callback to see it."""
    if not waits:  # and this test would see it
        monkeypatch.setattr(roofstep.jax, "_wait", lambda: None)
    params = {"w": placed(0)}
    optimizer = made(params, rate=1.0)
    grads = {"w": jax.block_until_ready(jnp.full(params["w"].shape, -1.0))}
    seen: list[list[float]] = []

    @jax.jit
    def tell(params: Any, delay: Any) -> None:
        jax.debug.callback(
            lambda *bounds: seen.append([*map(float, bounds)]), *evaluate(params, delay)
        )

    for step in range(20):
        tell(params, later(ZEROS))
        roofstep.jax.apply_gradients(optimizer, grads)
        if waits:
            assert seen == [[float(i)] * 2 for i in range(step + 1)]
    jax.effects_barrier()
    assert (seen == [[float(i)] * 2 for i in range(20)]) == waits


def test_two_leaves_of_one_path_are_refused() -> None:
    one = np.zeros(2, "float32")
    with pytest.raises(ValueError, match="'a/b': expected a path of its own"):
        roofstep.jax.parameters({"a/b": one, "a": {"b": one.copy()}})
    optimizer = made({"a": {"b": one}})
    gradient = jnp.ones(2)
    with pytest.raises(ValueError, match="'a/b': expected a path of its own"):
        roofstep.jax.apply_gradients(optimizer, {"a/b": 2 * gradient, "a": {"b": gradient}})
    assert not one.any()


@pytest.mark.parametrize("swapped", [{"w": np.zeros(1)}, None])
def test_the_optimizer_comes_first(swapped: Any) -> None:
    with pytest.raises(TypeError, match="optimizer: expected one of roofstep"):
        roofstep.jax.apply_gradients(swapped, {"w": jnp.zeros(1)})


def test_nothing_of_jax_is_kept() -> None:
    params = tree()
    optimizer = made(params)
    gradient = jax.jit(jax.grad(loss))
    counts = []
    for _ in range(3):
        roofstep.jax.apply_gradients(optimizer, gradient(params, *batch()))
        gc.collect()
        counts.append(len(jax.live_arrays()))
    assert counts[0] == counts[2]


def test_docstring_examples() -> None:
    result = doctest.testmod(roofstep.jax)
    assert result.failed == 0
    assert result.attempted > 0
