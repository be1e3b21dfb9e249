"""A multilayer perceptron in JAX learns scikit-learn's digits, with AdamW of roofstep and of optax.

The parameters are NumPy arrays, which JAX reads; roofstep writes them in place.
"""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import roofstep.jax
from roofstep.timing import compare

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


params = parameters()
optimizer = roofstep.AdamW(1e-3, parameters=roofstep.jax.parameters(params), weight_decay=0.01)
own_losses = []
for x, y in batches():
    loss, grads = loss_and_gradients(params, x, y)
    roofstep.jax.apply_gradients(optimizer, grads)  # in place of the two lines of `update`
    own_losses.append(float(loss))


@functools.partial(jax.jit, donate_argnums=(0, 1))
def update(weights, state, grads):
    moves, state = transformation.update(grads, state, weights)
    return optax.apply_updates(weights, moves), state


weights = jax.tree.map(jnp.array, parameters())
transformation = optax.adamw(1e-3, weight_decay=0.01)
state = transformation.init(weights)
peer_losses = []
for x, y in batches():
    loss, peer_grads = loss_and_gradients(weights, x, y)
    weights, state = update(weights, state, peer_grads)
    peer_losses.append(float(loss))


def step_of_optax():
    global weights, state
    weights, state = jax.block_until_ready(update(weights, state, grads))


start, own_loss, peer_loss = own_losses[0], np.mean(own_losses[-20:]), np.mean(peer_losses[-20:])
step = functools.partial(roofstep.jax.apply_gradients, optimizer, grads)
times = compare(step, step_of_optax, budget=1.0).row()
print(f"loss: {start:.4f} at the start, then {own_loss:.6f} by roofstep, {peer_loss:.6f} by optax")
print(f"step: {times['own_us']:.1f} us of roofstep, {times['peer_us']:.1f} us of optax (medians)")
assert abs(own_loss - peer_loss) < 0.01 * peer_loss
