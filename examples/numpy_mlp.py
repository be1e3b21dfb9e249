"""A multilayer perceptron in plain NumPy learns scikit-learn's digits, with Adam of roofstep.

Beside it the same with Adam written out in NumPy: `train` is given the one or the other.
"""

import time
from itertools import pairwise

import numpy as np
from sklearn.datasets import load_digits

import roofstep

images, digits = load_digits(return_X_y=True)
images, answers = (images / 16).astype("float32"), np.eye(10, dtype="float32")[digits]
SIZES = (64, 256, 256, 10)


class NumPyAdam:
    """Adam in NumPy's own operations, for parameters that have `data` and `grad`."""

    def __init__(self, learning_rate, parameters, beta1=0.9, beta2=0.999, epsilon=1e-8):
        self.rate, self.b1, self.b2, self.epsilon = learning_rate, beta1, beta2, epsilon
        self.rows = [(p, np.zeros_like(p.data), np.zeros_like(p.data)) for p in parameters]
        self.t = 0

    def step(self):
        self.t += 1
        correction = np.sqrt(1 - self.b2**self.t)
        rate = self.rate * correction / (1 - self.b1**self.t)
        for p, m, v in self.rows:
            m += (1 - self.b1) * (p.grad - m)
            v += (1 - self.b2) * (p.grad**2 - v)
            p.data -= rate * m / (np.sqrt(v) + self.epsilon * correction)


def forward(weights, biases, x):
    """The probabilities of the digits, and what each layer was given."""
    inputs = []
    for w, b in zip(weights, biases, strict=True):
        inputs.append(x)
        logits = x @ w.data + b.data
        x = np.maximum(logits, 0)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True), inputs


def backward(weights, biases, inputs, gradient):
    """Leaves the gradients on the parameters, given the loss's in the logits."""
    for w, b, x in zip(weights[::-1], biases[::-1], inputs[::-1], strict=True):
        w.grad, b.grad = x.T @ gradient, gradient.sum(axis=0)
        gradient = (gradient @ w.data.T) * (x > 0)


def train(make_optimizer):
    """Yields the loss of each batch, and the seconds that its step took."""
    rng = np.random.default_rng(0)
    weights = [
        roofstep.Parameter(rng.normal(0, np.sqrt(2 / n), (n, m)).astype("float32"))
        for n, m in pairwise(SIZES)
    ]
    biases = [roofstep.Parameter(np.zeros(m, "float32")) for m in SIZES[1:]]
    optimizer = make_optimizer(learning_rate=1e-3, parameters=[*weights, *biases])  # the one line
    for _ in range(200):
        chosen = rng.choice(len(images), 128)
        found, inputs = forward(weights, biases, images[chosen])
        loss = -np.mean(np.log(found[answers[chosen] > 0]))
        backward(weights, biases, inputs, (found - answers[chosen]) / len(chosen))
        began = time.perf_counter()
        optimizer.step()
        took = time.perf_counter() - began
        yield loss, took


turns = np.array([*zip(train(roofstep.Adam), train(NumPyAdam), strict=True)])  # batch by batch
start, (own_loss, peer_loss) = turns[0, 0, 0], turns[-20:, :, 0].mean(axis=0)
own_time, peer_time = 1e6 * np.median(turns[:, :, 1], axis=0)
print(f"loss: {start:.4f} at the start, then {own_loss:.6f} by roofstep, {peer_loss:.6f} by NumPy")
print(f"step: {own_time:.1f} us of roofstep, {peer_time:.1f} us of NumPy (medians)")
assert abs(own_loss - peer_loss) < 0.01 * peer_loss
