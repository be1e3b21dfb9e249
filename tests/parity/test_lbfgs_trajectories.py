"""LBFGS held to torch.optim.LBFGS and paddle.optimizer.LBFGS, which run in processes of their own.

Each library writes down its trajectory: before and after every step the parameters and the state.
Iteration by iteration, each begun from the library's own state, roofstep must come to the same
point after the same number of evaluations. Over many iterations of its own it can do so only where
the loss lets it: L-BFGS multiplies a difference of one rounding, on Rosenbrock's valley by some
1e7 in 20 iterations. There it is held to what becomes of the library's own trajectory when its
beginning is moved by one unit in the last place.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import roofstep

Array = np.ndarray[Any, Any]
Case = dict[str, Any]
Function = Callable[[Array], tuple[float, Array]]

BARS = {"float64": 1e-12, "float32": 1e-6}  # of an iteration
# In the valley, one iteration's search goes so far along the direction that the rounding of the
# points to float32 decides: in float64, from the same state, roofstep comes 6e-6 to 2e-5 away from
# both libraries, and up to 1.3e-5 from itself. Elsewhere the distance is at most 2.4e-7.
UNSURE = {"function": "rosenbrock", "dtype": "float32", "learning_rate": 0.1}
UNSURE_ITERATION, UNSURE_BAR = 6, 3e-5
SHAPES = ((2, 2), (3,), ())
BEGIN = np.array([1.24, -0.53, 0.45, -1.3, 0.91, 0.45, -0.54, 0.58])


def rosenbrock(x: Array) -> tuple[float, Array]:
    a, b = x[:-1], x[1:]
    gradient = np.zeros_like(x)
    gradient[:-1] = -400 * a * (b - a * a) - 2 * (1 - a)
    gradient[1:] += 200 * (b - a * a)
    return float((100 * (b - a * a) ** 2 + (1 - a) ** 2).sum()), gradient


def quadratic(x: Array) -> tuple[float, Array]:
    scales = np.logspace(0, 4, x.size)
    return float((scales * x * x).sum() / 2 + x.sum()), scales * x + 1


def logistic(x: Array) -> tuple[float, Array]:
    random = np.random.default_rng(3)
    features, labels = random.standard_normal((40, x.size)), random.random(40) > 0.5
    z = (features * x).sum(axis=1)
    loss = np.logaddexp(0, z).mean() - (labels * z).mean() + 0.05 * (x * x).sum()
    wrong = 1 / (1 + np.exp(-z)) - labels
    return float(loss), (features * wrong[:, None]).mean(axis=0) + 0.1 * x


def bumpy(x: Array) -> tuple[float, Array]:
    """Has many minima, so that a line search must zoom."""
    far = x.sum() - 3
    loss = np.cosh(x).sum() + far * far + np.sin(5 * x).sum()
    return float(loss), np.sinh(x) + 2 * far + 5 * np.cos(5 * x)


FUNCTIONS: dict[str, Function] = {f.__name__: f for f in (rosenbrock, quadratic, logistic, bumpy)}
SETTINGS = {
    "short": {"history_size": 2},
    "long": {"history_size": 100},
    "loose": {"tolerance_grad": 1e-2, "tolerance_change": 1e-4},
}
ITERATIONS = 20
RUNS = ((1, 999), (5, 999), (20, 999), (20, None), (20, 7))  # max_iter, max_eval
CASES: dict[str, Case] = {
    f"{function}-{dtype}-{search}-{rate}-{setting}-{max_iter}-{max_eval}": {
        "function": function,
        "dtype": dtype,
        "learning_rate": rate,
        "options": {
            "line_search_fn": search,
            "tolerance_grad": 1e-7,
            "max_iter": max_iter,
            "max_eval": max_eval,
            **SETTINGS[setting],
        },
    }
    for function, dtype, search, rate, setting, (max_iter, max_eval) in itertools.product(
        FUNCTIONS, BARS, (None, "strong_wolfe"), (1.0, 0.1), SETTINGS, RUNS
    )
}


def cut(vector: Array) -> list[Array]:
    """The pieces of a vector in the shapes of the parameters."""
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])
    return [v.reshape(s) for v, s in zip(np.split(vector, ends[:-1]), SHAPES, strict=True)]


class Player:
    """One library's LBFGS at work on a case, with gradients from NumPy; counts the evaluations."""

    def __init__(self, case: Case, begin: Array) -> None:
        self.case = case
        self.evaluations = 0
        self.make(cut(begin.astype(case["dtype"])))

    def evaluate(self) -> float:
        self.evaluations += 1
        loss, gradient = FUNCTIONS[self.case["function"]](self.point().astype("float64"))
        self.give(cut(gradient.astype(self.case["dtype"])))
        return loss

    def make(self, begin: list[Array]) -> None: ...
    def give(self, gradients: list[Array]) -> None: ...
    def arrays(self) -> list[Array]: ...
    def step(self) -> None: ...
    def state(self) -> dict[str, Any]:
        return {}

    def point(self) -> Array:
        return np.concatenate([np.ravel(array) for array in self.arrays()])


class Roofstep(Player):
    def make(self, begin: list[Array]) -> None:
        self.parameters = [
            roofstep.Parameter(array.copy(), f"p{i}") for i, array in enumerate(begin)
        ]
        self.optimizer = roofstep.LBFGS(
            self.case["learning_rate"], parameters=self.parameters, **self.case["options"]
        )

    def give(self, gradients: list[Array]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def arrays(self) -> list[Array]:
        return [parameter.data for parameter in self.parameters]

    def step(self) -> None:
        self.optimizer.step(self.evaluate)

    def take_over(self, point: Array, state: dict[str, Any]) -> None:
        for array, value in zip(self.arrays(), cut(point), strict=True):
            array[...] = value
        self.optimizer.set_state_dict({"state": state})


class Torch(Player):
    """Its state under Paddle's names."""

    NAMES: ClassVar = {"t": "alpha", "old_dirs": "old_yk", "old_stps": "old_sk"}

    def make(self, begin: list[Array]) -> None:
        import torch

        torch.set_num_threads(1)
        self.tensor = torch.tensor
        self.parameters = [torch.tensor(array, requires_grad=True) for array in begin]
        self.optimizer = torch.optim.LBFGS(
            self.parameters, self.case["learning_rate"], **self.case["options"]
        )

    def give(self, gradients: list[Array]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = self.tensor(gradient)

    def arrays(self) -> list[Array]:
        return [parameter.detach().numpy() for parameter in self.parameters]

    def step(self) -> None:
        self.optimizer.step(self.evaluate)

    def state(self) -> dict[str, Any]:
        state = self.optimizer.state[self.parameters[0]]
        return {self.NAMES.get(key, key): plain(value) for key, value in state.items()}


class Paddle(Player):
    def make(self, begin: list[Array]) -> None:
        import paddle

        self.tensor = paddle.to_tensor
        self.parameters = []
        for array in begin:
            parameter = paddle.create_parameter(list(array.shape), self.case["dtype"])
            parameter.set_value(array)
            self.parameters.append(parameter)
        self.optimizer = paddle.optimizer.LBFGS(
            self.case["learning_rate"], parameters=self.parameters, **self.case["options"]
        )

    def give(self, gradients: list[Array]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = self.tensor(gradient)

    def arrays(self) -> list[Array]:
        return [parameter.numpy() for parameter in self.parameters]

    def step(self) -> None:
        self.optimizer.step(lambda: self.tensor(self.evaluate(), dtype="float64"))

    def state(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()["state"]
        return {key: plain(value) for key, value in state.items()}


def plain(value: Any) -> Any:
    """Tensors as copies in NumPy."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if hasattr(value, "detach"):
        value = value.detach()
    return np.array(value.numpy()) if hasattr(value, "numpy") else value


@dataclass
class Step:
    """What a library did in one step; its state is kept where each step is an iteration."""

    before: Array
    state: dict[str, Any] | None
    after: Array
    evaluations: int


def played(player: type[Player], case: Case, begin: Array = BEGIN) -> list[Step]:
    own = player(case, begin)
    single = case["options"]["max_iter"] == 1
    steps = []
    for _ in range(ITERATIONS if single else 4):
        before, state, so_far = own.point(), own.state() if single else None, own.evaluations
        own.step()
        steps.append(Step(before, state, own.point(), own.evaluations - so_far))
    return steps


def is_comparable(library: str, case: Case) -> bool:
    """In torch a line search ends where ``max_eval`` does; in Paddle, as here, it is finished."""
    options = case["options"]
    return not (library == "torch" and options["line_search_fn"] and options["max_eval"] != 999)


def trajectories(library: str) -> dict[str, tuple[list[Step], list[Step]]]:
    """For every case what the library did, and what it did from one unit in the last place on."""
    player = {"torch": Torch, "paddle": Paddle}[library]
    found = {}
    for name, case in CASES.items():
        if is_comparable(library, case):
            moved = np.nextafter(BEGIN.astype(case["dtype"]), 9)
            alone = case["options"]["max_iter"] == 1
            found[name] = played(player, case), [] if alone else played(player, case, moved)
    return found


@functools.cache
def recorded(library: str) -> dict[str, tuple[list[Step], list[Step]]]:
    """The trajectories of a library, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, library], stdout=subprocess.PIPE, check=True
    )
    return pickle.loads(done.stdout)


def distance(a: Array, b: Array) -> float:
    return float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b))))


libraries = pytest.mark.parametrize("library", ["torch", "paddle"])
functions = pytest.mark.parametrize("function", FUNCTIONS)
dtypes = pytest.mark.parametrize("dtype", BARS)


@libraries
@functions
@dtypes
def test_every_iteration_from_the_librarys_own_state(
    library: str, function: str, dtype: str
) -> None:
    seen = 0
    for name, (own, _) in recorded(library).items():
        case = CASES[name]
        if case["options"]["max_iter"] > 1 or (case["function"], case["dtype"]) != (
            function,
            dtype,
        ):
            continue
        player = Roofstep(case, BEGIN)
        searches = case["options"]["line_search_fn"] and UNSURE.items() <= case.items()
        for i, step in enumerate(own):
            assert step.state is not None
            player.take_over(step.before, step.state)
            player.evaluations = 0
            player.step()
            bar = UNSURE_BAR if searches and i == UNSURE_ITERATION else BARS[dtype]
            assert distance(player.point(), step.after) <= bar, name
            assert player.evaluations == step.evaluations, name
            seen += 1
    assert seen == 2 * 2 * len(SETTINGS) * ITERATIONS


@libraries
@functions
def test_trajectories_in_float64(library: str, function: str) -> None:
    close = total = 0
    for name, (own, moved) in recorded(library).items():
        case = CASES[name]
        if case["options"]["max_iter"] == 1 or case["function"] != function:
            continue
        if case["dtype"] != "float64":
            continue
        for ours, step, other in zip(played(Roofstep, case), own, moved, strict=True):
            far, its_own = distance(ours.after, step.after), distance(other.after, step.after)
            assert far <= max(BARS["float64"], 100 * its_own), name
            if step.evaluations == other.evaluations:
                assert ours.evaluations == step.evaluations, name
            close += far <= BARS["float64"]
            total += 1
    assert close >= {"rosenbrock": 0.5, "quadratic": 0.5}.get(function, 1.0) * total > 0


# Where all ways lead to one minimum. That of the logistic loss is so flat that the last iteration
# may be a longer or a shorter one.
@libraries
@pytest.mark.parametrize(("function", "bar"), [("logistic", 1e-5), ("bumpy", 1e-6)])
def test_trajectories_in_float32(library: str, function: str, bar: float) -> None:
    cases = {n: c for n, c in CASES.items() if (c["function"], c["dtype"]) == (function, "float32")}
    for name in cases.keys() & recorded(library).keys():
        if cases[name]["options"]["max_iter"] > 1:
            ours, own = played(Roofstep, cases[name]), recorded(library)[name][0]
            assert distance(ours[-1].after, own[-1].after) <= bar, name


if __name__ == "__main__":
    # As a module of this name: pickle finds its classes there again.
    sys.path.insert(0, str(Path(__file__).parent))
    found = importlib.import_module(Path(__file__).stem).trajectories(sys.argv[1])
    pickle.dump(found, sys.stdout.buffer)
