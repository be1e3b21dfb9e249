"""A multilayer perceptron in JAX learns scikit-learn's digits, with AdamW of roofstep and of optax.

The parameters are NumPy arrays, which JAX reads; roofstep writes them in place.
"""

import functools
import time
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import roofstep.jax

images, digits = load_digits(return_X_y=True)
images, digits = (images / 16).astype("float32"), digits.astype("int32")
SIZES = (64, 512, 512, 10)


def parameters():
    rng = np.random.default_rng(0)
    return [
        {
            "kernel": rng.normal(0, np.sqrt(2 / n), (n, m)).astype("float32"),
            "bias": np.zeros(m, "float32"),
        }
        for n, m in pairwise(SIZES)
    ]


def batches(steps=200):
    rng = np.random.default_rng(1)
    for _ in range(steps):
        chosen = rng.choice(len(images), 128)
        yield images[chosen], digits[chosen]


@jax.jit
@jax.value_and_grad
def loss_and_gradients(params, x, y):
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    logits = x @ last["kernel"] + last["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@functools.partial(jax.jit, donate_argnums=(0, 1))
def update(weights, state, grads):
    moves, state = transformation.update(grads, state, weights)
    return optax.apply_updates(weights, moves), state


params = parameters()
optimizer = roofstep.AdamW(1e-3, parameters=roofstep.jax.parameters(params), weight_decay=0.01)
weights = jax.tree.map(jnp.array, parameters())
transformation = optax.adamw(1e-3, weight_decay=0.01)
state = transformation.init(weights)
turns = []
for x, y in batches():
    own_loss, grads = jax.block_until_ready(loss_and_gradients(params, x, y))
    began = time.perf_counter()
    roofstep.jax.apply_gradients(optimizer, grads)  # in place of the two lines of `update`
    own_time = time.perf_counter() - began

    peer_loss, grads = jax.block_until_ready(loss_and_gradients(weights, x, y))
    began = time.perf_counter()
    weights, state = jax.block_until_ready(update(weights, state, grads))
    peer_time = time.perf_counter() - began
    turns.append(((own_loss, own_time), (peer_loss, peer_time)))

turns = np.array(turns)
start, (own_loss, peer_loss) = turns[0, 0, 0], turns[-20:, :, 0].mean(axis=0)
own_time, peer_time = 1e6 * np.median(turns[:, :, 1], axis=0)
print(f"loss: {start:.4f} at the start, then {own_loss:.6f} by roofstep, {peer_loss:.6f} by optax")
print(f"step: {own_time:.1f} us of roofstep, {peer_time:.1f} us of optax (medians)")
assert abs(own_loss - peer_loss) < 0.01 * peer_loss
