"""A classifier in the manner of scikit-learn learns from a stream, stepped by roofstep.

Beside it the same stepped by `w -= rate * velocity` in NumPy: the two agree in every bit.
"""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.kernel_approximation import RBFSampler
from sklearn.metrics import log_loss

import roofstep
from roofstep.timing import compare


class PlainMomentum:
    """Gradient descent with momentum as one writes it, for parameters with `data` and `grad`."""

    def __init__(self, learning_rate, parameters):
        self.rate = learning_rate
        self.rows = [(p, np.zeros_like(p.data)) for p in parameters]

    def step(self):
        for p, velocity in self.rows:
            velocity *= 0.9
            velocity += p.grad
            p.data -= self.rate * velocity


class SoftmaxRegression(ClassifierMixin, BaseEstimator):
    """Multinomial logistic regression that learns batch by batch."""

    def __init__(self, make_optimizer=roofstep.Momentum, learning_rate=0.1):
        self.make_optimizer = make_optimizer
        self.learning_rate = learning_rate

    def partial_fit(self, X, y, classes=None):
        """One step on the batch; the first call is told all classes."""
        if not hasattr(self, "optimizer_"):
            self.classes_ = np.unique(classes)
            shape = (X.shape[1], len(self.classes_))
            self.coef_ = roofstep.Parameter(np.zeros(shape, X.dtype), name="coef")
            self.intercept_ = roofstep.Parameter(np.zeros(shape[1], X.dtype), name="intercept")
            self.optimizer_ = self.make_optimizer(  # the one line
                learning_rate=self.learning_rate, parameters=[self.coef_, self.intercept_]
            )
        answers = (y[:, None] == self.classes_).astype(X.dtype)
        gradient = (self.predict_proba(X) - answers) / len(X)
        self.coef_.grad, self.intercept_.grad = X.T @ gradient, gradient.sum(axis=0)
        self.optimizer_.step()
        return self

    def predict_proba(self, X):
        logits = X @ self.coef_.data + self.intercept_.data
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


images, digits = load_digits(return_X_y=True)
kernel = RBFSampler(gamma=0.05, n_components=1000, random_state=0)
features = kernel.fit_transform(images / 16).astype("float32")


def train(make_optimizer):
    model = SoftmaxRegression(make_optimizer, learning_rate=0.5)
    stream = np.random.default_rng(0)
    losses = []
    for step in range(500):
        batch = stream.choice(len(digits), 64)
        model.partial_fit(features[batch], digits[batch], classes=range(10))
        if step in (0, 499):
            losses.append(log_loss(digits, model.predict_proba(features)))
    return *losses, model


start, own_loss, own = train(roofstep.Momentum)
start, peer_loss, peer = train(PlainMomentum)
assert np.array_equal(own.coef_.data, peer.coef_.data)
times = compare(own.optimizer_.step, peer.optimizer_.step, budget=1.0).row()
print(f"loss: {start:.4f} at the start, then {own_loss:.6f} by roofstep, {peer_loss:.6f} by NumPy")
print(f"step: {times['own_us']:.1f} us of roofstep, {times['peer_us']:.1f} us of NumPy (medians)")
