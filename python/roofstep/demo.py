"""The demo: a small neural network learns handwritten digits, with roofstep as its optimizer.

Made to be read and copied. The network is plain NumPy, and the loop in `train` is that of any
program which uses roofstep: forward, backward, step, clear.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

import roofstep
from roofstep.arguments import whole_number

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

SIZES = (64, 128, 64, 10)  # pixels, two hidden layers, digits
BATCH = 64  # images per step
NOISE = 0.2  # standard deviation, where black to white is 1
LEARNING_RATES = {"sgd": 0.5, "momentum": 0.1, "adam": 0.02, "adamw": 0.02}


class Digits(NamedTuple):
    """Images as rows of 8 x 8 gray values from 0 to 1 (float32), and the digits that they show."""

    train_images: Floats  # (1437, 64)
    train_labels: Labels  # (1437,)
    test_images: Floats  # (360, 64)
    test_labels: Labels  # (360,)


def load_data(seed: int) -> Digits:
    """Split scikit-learn's 1797 digits 80 : 20, with the same mix of classes in both parts."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=seed
    )
    return Digits(train_images, train_labels, test_images, test_labels)


class MLP:
    """A multilayer perceptron: linear layers, with a ReLU between each two.

    Args:
        sizes: the widths from the input to the output.
        rng: draws the weights (He initialization); the biases start at 0.
        dtype: of all parameters.
    """

    def __init__(
        self, sizes: Sequence[int], rng: np.random.Generator, dtype: DTypeLike = np.float32
    ) -> None:
        self.weights: list[roofstep.Parameter] = []  # of shape (inputs, outputs)
        self.biases: list[roofstep.Parameter] = []  # of shape (outputs,)
        for layer, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
            weight = rng.normal(0, math.sqrt(2 / inputs), (inputs, outputs)).astype(dtype)
            bias = np.zeros(outputs, dtype)
            self.weights.append(roofstep.Parameter(weight, name=f"w{layer}"))
            self.biases.append(roofstep.Parameter(bias, name=f"b{layer}"))
        self.parameters = [*self.weights, *self.biases]
        self._inputs: list[Floats] = []  # what each layer was given, which backward needs

    def forward(self, images: Floats) -> Floats:
        """Map images, (n, inputs), to logits, (n, outputs)."""
        x, self._inputs = images, []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            self._inputs.append(x)
            logits: Floats = x @ weight.data + bias.data
            x = np.maximum(logits, 0)
        return logits

    def backward(self, gradient: Floats) -> None:
        """Set ``.grad`` of every parameter, given the loss's gradient in the logits of forward."""
        for layer in reversed(range(len(self.weights))):
            x = self._inputs[layer]
            self.weights[layer].grad = x.T @ gradient
            self.biases[layer].grad = gradient.sum(axis=0)
            if layer > 0:  # x is the output of a ReLU
                gradient = (gradient @ self.weights[layer].data.T) * (x > 0)


def cross_entropy(logits: Floats, labels: Labels) -> tuple[float, Floats]:
    """Return the mean softmax cross-entropy in nats, and its gradient in the logits."""
    rows = np.arange(len(labels))
    # Subtracting the maximum leaves the softmax as it is, and keeps exp from overflowing.
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(sums[:, 0]) - shifted[rows, labels])
    gradient = exponentials / sums
    gradient[rows, labels] -= 1
    return float(loss), gradient / len(labels)


def make_optimizer(
    name: str, schedule: roofstep.lr.LRScheduler, parameters: list[roofstep.Parameter]
) -> roofstep.Optimizer:
    """Build one of the optimizers of `LEARNING_RATES`, with decay and gradient clipping."""
    clip = roofstep.ClipGradByGlobalNorm(1.0)
    if name == "adamw":
        return roofstep.AdamW(
            learning_rate=schedule,
            parameters=parameters,
            weight_decay=0.05,
            # The usual choice: weight matrices decay, biases do not.
            apply_decay_param_fun=lambda parameter: parameter.startswith("w"),
            grad_clip=clip,
        )
    classes: dict[str, type[roofstep.Optimizer]] = {
        "sgd": roofstep.SGD,
        "momentum": roofstep.Momentum,
        "adam": roofstep.Adam,
    }
    return classes[name](
        learning_rate=schedule, parameters=parameters, weight_decay=1e-4, grad_clip=clip
    )


@dataclass
class History:
    """The network and how its training went; accuracy is per epoch, all else per step."""

    model: MLP
    loss: list[float] = field(default_factory=list)  # nats, of the batch before the step
    accuracy: list[float] = field(default_factory=list)  # fraction of the test images
    learning_rate: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)  # over all parameters, before clipping


def train(
    optimizer: str = "adamw",
    lr: float | None = None,
    epochs: int = 60,
    seed: int = 0,
    on_epoch: Callable[[History], None] = lambda history: None,
) -> History:
    """Train an `MLP` on the digits.

    Args:
        optimizer: a key of `LEARNING_RATES`.
        lr: the highest learning rate; None takes that of `LEARNING_RATES`.
        epochs: passes over the training images, at least 1.
        seed: of the split, the initial weights, the order of the images and the noise.
        on_epoch: called after every epoch with the history so far.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    data = load_data(seed)
    rng = np.random.default_rng(seed)
    model = MLP(SIZES, rng)

    lr = LEARNING_RATES[optimizer] if lr is None else lr
    starts = range(0, len(data.train_images) - BATCH + 1, BATCH)  # of full batches
    steps = epochs * len(starts)
    warmup = steps // 10
    schedule = roofstep.lr.LinearWarmup(
        roofstep.lr.CosineAnnealingDecay(lr, T_max=steps - warmup),
        warmup_steps=warmup,
        start_lr=lr / 10,
        end_lr=lr,
    )
    opt = make_optimizer(optimizer, schedule, model.parameters)

    history = History(model)
    for _ in range(epochs):
        order = rng.permutation(len(data.train_images))
        for start in starts:
            batch = order[start : start + BATCH]
            images, labels = data.train_images[batch], data.train_labels[batch]
            # Images that are never twice the same cannot be learned by heart.
            images = images + NOISE * rng.standard_normal(images.shape, np.float32)

            loss, gradient = cross_entropy(model.forward(images), labels)
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss became {loss}; try a lower --lr than {lr:g}")
            model.backward(gradient)
            opt.step()
            opt.clear_grad()

            history.loss.append(loss)
            history.learning_rate.append(opt.get_lr())
            history.grad_norm.append(opt.last_grad_norm or 0.0)  # it is None without grad_clip
            schedule.step()
        guesses = model.forward(data.test_images).argmax(axis=1)
        history.accuracy.append(float(np.mean(guesses == data.test_labels)))
        on_epoch(history)
    return history


def plot(history: History, title: str, path: Path) -> None:
    """Draw loss, accuracy and learning rate over the epochs into a PNG file."""
    # A Figure of its own, not pyplot: no display needed, no global state touched.
    from matplotlib.figure import Figure

    epochs = np.arange(1, len(history.accuracy) + 1)
    steps = np.linspace(0, len(epochs), len(history.loss), endpoint=False)  # in epochs
    means = np.mean(np.reshape(history.loss, (len(epochs), -1)), axis=1)
    percent = 100 * np.array(history.accuracy)

    figure = Figure(figsize=(12, 3.8), dpi=150, layout="constrained")
    figure.suptitle(title, fontweight="bold")
    left, middle, right = figure.subplots(1, 3)
    left.semilogy(steps, history.loss, color="tab:blue", alpha=0.25, linewidth=0.8, label="batch")
    left.semilogy(epochs - 0.5, means, ".-", color="tab:blue", label="mean of the epoch")
    left.set(title="Training loss", ylabel="cross-entropy (nats)")
    left.legend(frameon=False)
    middle.plot(epochs, percent, ".-", color="tab:green")
    middle.set(title="Test accuracy", ylabel="%")
    right.plot(steps, history.learning_rate, color="tab:orange", linewidth=2)
    right.set(title="Learning rate", ylim=(0, None))
    for axes in (left, middle, right):
        axes.set(xlabel="epoch", xlim=(0, 1.02 * len(epochs)))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")


def _learning_rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text!r}")
    return value


def _png(text: str) -> Path:
    path = Path(text).absolute()
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"expected a file name that ends in .png, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"no directory {str(path.parent)!r}; make it first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {str(path)!r}; name another file")
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m roofstep demo``."""
    rates = ", ".join(f"{rate} for {name}" for name, rate in LEARNING_RATES.items())
    whole, lr, png = whole_number, _learning_rate, _png
    add = parser.add_argument
    add("--optimizer", choices=LEARNING_RATES, default="adamw", help="default: %(default)s")
    add("--lr", type=lr, metavar="RATE", help=f"highest learning rate; default: {rates}")
    add("--epochs", type=whole(1, 10_000), default=60, metavar="N", help="default: %(default)s")
    add("--threads", type=whole(1, 1024), metavar="N", help="of the optimizer; default: all CPUs")
    add("--seed", type=whole(0, 2**32 - 1), default=0, metavar="N", help="default: %(default)s")
    add("--out", type=png, default="roofstep-demo.png", metavar="PNG", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Train, show the progress, save the curves; return the exit status."""
    extra = ("sklearn", "tqdm", "matplotlib")
    if missing := [name for name in extra if importlib.util.find_spec(name) is None]:
        print(f"The demo needs {', '.join(missing)}: pip install 'roofstep[demo]'", file=sys.stderr)
        return 1
    # scikit-learn brings threadpoolctl along.
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    if args.threads is not None:
        roofstep.set_num_threads(args.threads)
    begin = time.perf_counter()
    try:
        with (
            tqdm(total=args.epochs, unit="epoch") as bar,
            # Matrices this small gain nothing from threads, which on busy CPUs wait for each other.
            threadpool_limits(1, user_api="blas"),
            # Of a divergence train tells once; NumPy's warnings would come on top.
            np.errstate(all="ignore"),
        ):

            def show(history: History) -> None:
                bar.set_postfix_str(
                    f"loss {history.loss[-1]:.4f}, accuracy {history.accuracy[-1]:.1%}, "
                    f"lr {history.learning_rate[-1]:.2g}, grad norm {history.grad_norm[-1]:.2g}",
                    refresh=False,
                )
                bar.update()

            history = train(args.optimizer, args.lr, args.epochs, args.seed, show)
    except FloatingPointError as error:
        print(f"Training diverged: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - begin

    accuracy = f"{history.accuracy[-1]:.1%} test accuracy"
    plot(history, f"roofstep demo: {args.optimizer}, {accuracy}", args.out)
    print(f"{accuracy} after {args.epochs} epochs ({len(history.loss)} steps) in {seconds:.1f} s")
    print(f"Curves saved to {args.out}")
    return 0
