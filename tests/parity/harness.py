"""Both libraries under the same names, and runs that feed them the same numbers."""

from __future__ import annotations

import functools
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

import roofstep

with warnings.catch_warnings():
    # Paddle looks for a compiler's cache, which nothing here would use.
    warnings.filterwarnings("ignore", "No ccache found", UserWarning)
    import paddle

Array = np.ndarray[Any, Any]
Library = ModuleType | SimpleNamespace
Key = tuple[str, str]  # a parameter and one of its states

OPTIMIZERS = paddle.optimizer.__all__
SCHEDULES = paddle.optimizer.lr.__all__
CLIPS = [name for name in paddle.nn.__all__ if name.startswith("ClipGrad")]
REGULARIZERS = paddle.regularizer.__all__

# Paddle's classes where roofstep has its own.
PADDLE = SimpleNamespace(
    lr=paddle.optimizer.lr,
    ParamAttr=paddle.ParamAttr,
    ClipGradBase=paddle.nn.clip.ClipGradBase,
    WeightDecayRegularizer=paddle.regularizer.WeightDecayRegularizer,
    **{name: getattr(paddle.optimizer, name) for name in OPTIMIZERS},
    **{name: getattr(paddle.nn, name) for name in CLIPS},
    **{name: getattr(paddle.regularizer, name) for name in REGULARIZERS},
)

BARS = {"float32": 1e-6, "float64": 1e-12}
STEPS = 20
# Of one and of several blocks of the kernels, with and without dimensions.
SHAPES = {"scalar": (), "single": (1,), "row": (7,), "matrix": (3, 5), "big": (65, 67)}


class Made:
    """An object that each library makes of its own class of this name: a clip, a schedule."""

    def __init__(self, name: str, *arguments: Any, **settings: Any) -> None:
        self._name, self._arguments, self._settings = name, arguments, settings

    def of(self, library: Library) -> Any:
        made = operator.attrgetter(self._name)(library)
        return made(*built(library, self._arguments), **built(library, self._settings))

    def __repr__(self) -> str:
        settings = [f"{key}={value!r}" for key, value in self._settings.items()]
        return f"{self._name}({', '.join([*map(repr, self._arguments), *settings])})"


def built(library: Library, value: Any) -> Any:
    """The value with all that is `Made` in it made by this library."""
    if isinstance(value, Made):
        return value.of(library)
    if isinstance(value, Mapping):
        return {key: built(library, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(built(library, item) for item in value)
    return value


@functools.cache
def begin() -> dict[str, Array]:
    """What parameters begin with: so far from 0 that no run carries one over it, where L1 decay
    would make much of a rounding; and so far below 1 that few leave the finer floats there.
    """
    random = np.random.default_rng(1)
    return {
        name: np.asarray(
            random.uniform(0.5, 0.75, shape) * random.choice([-1, 1], shape), "float32"
        )
        for name, shape in SHAPES.items()
    }


@functools.cache
def gradients(step: int) -> dict[str, Array | None]:
    """Of order 1, some elements 0, some of them None, in one parameter the first ones."""
    random = np.random.default_rng([2, step])
    made: dict[str, Array | None] = {}
    for name, shape in SHAPES.items():
        gradient = random.standard_normal(shape) * (random.random(shape) > 0.125)
        made[name] = np.asarray(gradient, "float32")
    if step < 4:
        made["single"] = None
    if step % 3 == 1:
        made["row"] = None
    return made


class Run:
    """An optimizer of one library with its parameters.

    Args:
        cls: the name of the class.
        settings: its arguments, perhaps `Made`.
        dtype: of all parameters.
        names: those of the parameters.
        attributes: the arguments of a ParamAttr by the name of the parameter.
        groups: the parameters' names and the settings of each group; None for one flat list.
    """

    library: Library

    def __init__(
        self,
        cls: str,
        settings: Mapping[str, Any],
        dtype: str,
        names: Sequence[str] = tuple(SHAPES),
        attributes: Mapping[str, Mapping[str, Any]] | None = None,
        groups: Sequence[tuple[Sequence[str], Mapping[str, Any]]] | None = None,
    ) -> None:
        self.dtype = dtype
        self.parameters = {
            name: self.parameter(
                name,
                np.array(begin()[name], dtype),
                built(self.library, (attributes or {}).get(name)),
            )
            for name in names
        }
        rows: list[Any] = list(self.parameters.values())
        if groups is not None:
            rows = [
                {"params": [self.parameters[n] for n in members], **built(self.library, own)}
                for members, own in groups
            ]
        arguments = {"parameters": rows, **built(self.library, dict(settings))}
        self.optimizer = getattr(self.library, cls)(**arguments)

    def feed(self, step: int) -> None:
        """Gives each parameter its gradient of this step."""
        for name, parameter in self.parameters.items():
            gradient = gradients(step)[name]
            self.give(parameter, None if gradient is None else np.array(gradient, self.dtype))

    def values(self) -> dict[str, Array]:
        return {name: self.value(parameter) for name, parameter in self.parameters.items()}

    # What the libraries differ in.

    @staticmethod
    def parameter(name: str, array: Array, attributes: Mapping[str, Any] | None) -> Any:
        raise NotImplementedError

    @staticmethod
    def give(parameter: Any, gradient: Array | None) -> None:
        raise NotImplementedError

    @staticmethod
    def value(parameter: Any) -> Array:
        raise NotImplementedError

    def states(self) -> dict[Key, Array]:
        """All states, step counts and other numbers, by parameter and name."""
        pattern = re.compile(rf"({'|'.join(self.parameters)})_(\w+)_\d+")
        found: dict[Key, Array] = {}
        for key, value in self.optimizer.state_dict().items():
            if hasattr(value, "shape"):
                match = pattern.fullmatch(key)
                assert match is not None, key
                found[match[1], match[2]] = np.asarray(value)
        return found


class Ours(Run):
    """A run of roofstep."""

    library = roofstep

    @staticmethod
    def parameter(name: str, array: Array, attributes: Mapping[str, Any] | None) -> Any:
        return roofstep.Parameter(array, name, roofstep.ParamAttr(**(attributes or {})))

    @staticmethod
    def give(parameter: Any, gradient: Array | None) -> None:
        parameter.grad = gradient

    @staticmethod
    def value(parameter: Any) -> Array:
        return parameter.data.copy()


class Paddles(Run):
    """A run of Paddle."""

    library = PADDLE

    @staticmethod
    def parameter(name: str, array: Array, attributes: Mapping[str, Any] | None) -> Any:
        attr = paddle.ParamAttr(**(attributes or {}))
        parameter = paddle.create_parameter(list(array.shape), str(array.dtype), attr=attr)
        parameter.name = name  # later, since a name may be given once in a process
        parameter.set_value(array)
        return parameter

    @staticmethod
    def give(parameter: Any, gradient: Array | None) -> None:
        parameter.grad = None if gradient is None else paddle.to_tensor(gradient)

    @staticmethod
    def value(parameter: Any) -> Array:
        return parameter.numpy()


Act = Callable[[Run, int], object]


def step(run: Run, number: int) -> None:
    """What a run does in each step, if a case has nothing else."""
    run.optimizer.step()


def both(*arguments: Any, **settings: Any) -> tuple[Ours, Paddles]:
    """The same run of either library."""
    return Ours(*arguments, **settings), Paddles(*arguments, **settings)


def run(one: Run, steps: range = range(STEPS), act: Act = step) -> Iterator[dict[str, Array]]:
    """The values after each step."""
    for number in steps:
        one.feed(number)
        act(one, number)
        yield one.values()


def last(one: Run, steps: range = range(STEPS), act: Act = step) -> dict[str, Array]:
    """The values after all steps."""
    *_, values = run(one, steps, act)
    return values


def agree(
    ours: Run, paddles: Run, steps: range = range(STEPS), act: Act = step
) -> dict[str, Array]:
    """Runs both, compares all parameters after each step, and gives the values of the end."""
    values: dict[str, Array] = {}
    pairs = zip(run(ours, steps, act), run(paddles, steps, act), strict=True)
    for number, (values, expected) in enumerate(pairs):
        close(values, expected, ours.dtype, f"after step {number}")
    return values


def error(value: Any, expected: Any) -> float:
    """The largest |a - b| / max(1, |b|)."""
    a, b = np.asarray(value, "float64"), np.asarray(expected, "float64")
    assert a.shape == b.shape
    return float((abs(a - b) / np.maximum(1, abs(b))).max(initial=0))


def close(
    values: Mapping[Any, Any], expected: Mapping[Any, Any], dtype: str, when: str = ""
) -> None:
    """Holds values to the bar of their dtype."""
    assert values.keys() == expected.keys()
    for name, value in values.items():
        worst = error(value, expected[name])
        assert worst <= BARS[dtype], f"{name} {when}: off by {worst:.2e}"


def distance(values: Mapping[Any, Any], others: Mapping[Any, Any]) -> float:
    """How far apart two results are."""
    return max(error(values[name], others[name]) for name in values)
