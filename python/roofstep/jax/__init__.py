"""JAX: a pytree of parameters that NumPy holds, stepped in place by the gradients of `jax.grad`.

JAX's arrays cannot be written, so the parameters are NumPy arrays, which every function of JAX
takes. On a CPU it reads them where they lie, or copies them, and computes while Python goes on: a
step at that time would give a mixture of old and new weights. `apply_gradients` therefore waits for
all that JAX computes. Two things are left to the caller:

- `jax.device_put` of a parameter, or a parameter that a function gives back as it is, may share its
  memory for good; `jax.numpy.array` copies.
- ``with optimizer.averaged():`` writes too, when the block ends: wait in there for what is computed
  in there, with `jax.block_until_ready` or `float`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import numpy as np

from roofstep.optimizer import Optimizer
from roofstep.parameter import Parameter

__all__ = ["apply_gradients", "parameters"]


def parameters(tree: Any) -> list[Parameter]:
    """The parameters of a pytree, for ``parameters=`` of an optimizer or of its groups.

    They share the memory of the arrays, and are named by their paths, as ``dense/kernel``; under
    these names a state dict keeps the states. Leaves that are None are passed over. Settings of
    single parameters are set on them, as ``trainable = False`` on those that are to stay.

    Args:
        tree: dicts, lists and whatever else JAX knows as a pytree, of NumPy arrays of float32 or
            float64 (see `roofstep.Parameter`). Of a tree that JAX has made,
            ``params = jax.tree.map(numpy.array, params)``. float64 needs ``jax_enable_x64``, as
            JAX computes in float32 otherwise.

    Raises:
        TypeError: a leaf is no NumPy array; the message names its path.
        ValueError: a leaf cannot be stepped in place, or two have the same path.

    Example:
        >>> import numpy as np, roofstep.jax
        >>> params = {"dense": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}}
        >>> found = roofstep.jax.parameters(params)
        >>> [parameter.name for parameter in found]
        ['dense/bias', 'dense/kernel']
        >>> decayed = [p for p in found if p.data.ndim > 1]
        >>> others = [p for p in found if p.data.ndim <= 1]
        >>> optimizer = roofstep.AdamW(
        ...     1e-3,
        ...     parameters=[{"params": decayed}, {"params": others, "weight_decay": None}],
        ...     weight_decay=0.1,
        ... )
    """
    return [Parameter(leaf, name=name) for name, leaf in _leaves(tree) if leaf is not None]


def apply_gradients(optimizer: Optimizer, grads: Any) -> None:
    """Step the parameters in place by a pytree of gradients, which are read where JAX put them.

    Everything that JAX computes is waited for first, since it may read the parameters; see above.
    So this is not to be called by a callback out of what JAX computes.

    Args:
        optimizer: made with ``parameters=roofstep.jax.parameters(params)``, in groups or not.
        grads: a pytree with the paths of ``params``, as `jax.grad` gives it, of arrays in the
            memory of the CPU, of the shapes and dtypes of the parameters. None in place of one
            leaves that parameter as it is.

    Raises:
        TypeError: ``optimizer`` is none, or a gradient is no array, or a tracer: this is called
            outside `jax.jit`.
        ValueError: the paths are not those of the parameters, two leaves have the same, a gradient
            has another shape or dtype, lies on another device or on several, or was deleted or
            donated; and as `roofstep.Optimizer.step`. Nothing has been written then.

    Example:
        >>> import jax, numpy as np, roofstep.jax
        >>> params = {"w": np.array([3.0, -2.0], "float32"), "b": np.zeros((), "float32")}
        >>> optimizer = roofstep.SGD(0.25, parameters=roofstep.jax.parameters(params))
        >>> grad = jax.jit(jax.grad(lambda p: (p["w"] ** 2).sum() + p["b"]))
        >>> for _ in range(2):
        ...     roofstep.jax.apply_gradients(optimizer, grad(params))
        >>> params
        {'w': array([ 0.75, -0.5 ], dtype=float32), 'b': array(-0.5, dtype=float32)}
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer: expected one of roofstep, made with "
            f"parameters=roofstep.jax.parameters(params), got a {type(optimizer).__name__}; the "
            f"gradients come second"
        )
    names = optimizer._parameters.keys()
    given = dict(_leaves(grads))
    missing = [name for name in names if name not in given]
    unknown = [name for name, leaf in given.items() if name not in names and leaf is not None]
    if missing or unknown:
        came = [f"none for {name!r}" for name in missing[:1]]
        came += [f"one for {name!r}, which is no parameter" for name in unknown[:1]]
        raise ValueError(
            f"grads: expected a gradient or None at the path of each of {len(names)} parameters, "
            f"got {' and '.join(came)}; make the optimizer with "
            f"parameters=roofstep.jax.parameters(params), give the gradients of these params, and "
            f"set trainable=False on a parameter that is to stay"
        )
    for name, gradient in given.items():
        if isinstance(gradient, jax.Array):
            _require_here(name, gradient)
    _wait()
    optimizer.apply_gradients([(name, _as_numpy(given[name])) for name in names])


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves with their paths as names, None among them; a bare array is called params."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: node is None)
    named = [
        (jax.tree_util.keystr(path, simple=True, separator="/") or "params", leaf)
        for path, leaf in found
    ]
    counts = Counter(name for name, _ in named)
    if (twice := next((name for name in counts if counts[name] > 1), None)) is not None:
        raise ValueError(
            f"{twice!r}: expected a path of its own for each leaf of a tree, got {counts[twice]} "
            f"leaves of this one; leave '/' out of the keys"
        )
    return named


def _require_here(name: str, gradient: jax.Array) -> None:
    """Refuses what NumPy would copy from elsewhere, or could not read."""
    what = f"the gradient of parameter {name!r}: expected an array of JAX"
    if isinstance(gradient, jax.core.Tracer):
        raise TypeError(
            f"{what}, got a tracer; call apply_gradients outside jax.jit and jax.grad, which give "
            f"the gradients"
        )
    if gradient.is_deleted():
        raise ValueError(
            f"{what} that holds its values, got one that was deleted or donated; compute it anew"
        )
    devices = gradient.devices()
    if len(devices) != 1 or any(device.platform != "cpu" for device in devices):
        found = ", ".join(sorted(map(str, devices)))
        raise ValueError(
            f"{what} on one CPU device, got one on {found}; move it there with "
            f"jax.device_put(grads, jax.devices('cpu')[0])"
        )


def _as_numpy(gradient: Any) -> Any:
    """A read-only array over the memory of one of JAX's; the step judges all else."""
    return np.asarray(gradient) if isinstance(gradient, jax.Array) else gradient


def _wait() -> None:
    """Until JAX has computed every array that somebody holds, and called all that it calls back."""
    for platform in {"cpu", jax.default_backend()}:
        jax.block_until_ready(jax.live_arrays(platform))
    jax.effects_barrier()
