"""Types where no checker looks: how the compiled functions are called, and what arguments say."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from operator import attrgetter
from pathlib import Path
from types import FunctionType, ModuleType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import roofstep
from roofstep import _core


def functions(body: list[ast.stmt], path: str = "") -> Iterator[tuple[str, str]]:
    """The functions and methods of a stub by their paths, but for properties."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and not node.decorator_list:
            yield path + node.name, ast.unparse(node)


STUB = dict(functions(ast.parse(Path(roofstep.__file__).with_name("_core.pyi").read_text()).body))


def arguments(definition: str) -> dict[str, tuple[Any, Any]]:
    """The kinds and defaults of the arguments of a function, by their names."""
    names: dict[str, Any] = {"inf": inf}
    exec(f"from __future__ import annotations\n{definition}", names)
    row = inspect.signature(names.popitem()[1]).parameters
    return {name: (one.kind, one.default) for name, one in row.items()}


@pytest.mark.parametrize("path", STUB)
def test_arguments_are_those_of_the_stub(path: str) -> None:
    of_pybind11 = attrgetter(path)(_core).__doc__.split("\n")[0]
    assert arguments(STUB[path]) == arguments(f"def {of_pybind11}: ...")


# Arguments that may be anything, or that the callers of a method know best.
ANYTHING = {
    "apply_gradients(grads)": "a pytree of JAX",
    "parameters(tree)": "a pytree of JAX",
    "FusedClip.apply(pairs)": "a gradient is of any library",
    "LBFGS.apply_gradients(*_)": "refused",
    "LBFGS.apply_gradients(**__)": "refused",
    "LBFGS.minimize(*_)": "refused",
    "LBFGS.minimize(**__)": "refused",
    "Optimizer.__init__(**settings)": "those of a subclass",
    "Optimizer.backward(loss)": "a function, a tensor, a value of a program, or gradients",
    "Optimizer.backward(startup_program)": "Paddle's",
    "Optimizer.minimize(loss)": "a function, a tensor, a value of a program, or gradients",
    "Optimizer.minimize(startup_program)": "Paddle's",
}
# What a hint names that is imported for type checkers alone.
FOR_CHECKERS = {"Parameter": roofstep.Parameter, "Optimizer": roofstep.Optimizer, "Axes": object}

# A containers' elements are looked at, but not what a dict of settings or an array holds.
ROWS = (list, tuple, Iterable, Sequence, Union, UnionType)

# What is given where there is no default.
GIVEN: dict[str, Any] = {
    "T_0": 2,
    "T_max": 2,
    "base_learning_rate": 0.1,
    "boundaries": [2],
    "clip_norm": 1.0,
    "d_model": 2,
    "decay": 0.5,
    "decay_steps": 2,
    "end_lr": 0.5,
    "gamma": 0.5,
    "learning_rate": 0.1,
    "lr_lambda": lambda epoch: np.float32(0.5),
    "max": 1.0,
    "max_learning_rate": 0.5,
    "milestones": [2],
    "schedules": [roofstep.lr.ConstantLR(0.1), roofstep.lr.ConstantLR(0.2)],
    "stable_steps": 2,
    "start_lr": 0.25,
    "step_size": 2,
    "step_size_up": 2,
    "total_steps": 2,
    "values": [0.5, 0.25],
    "warmup_steps": 2,
}


def public(*modules: ModuleType) -> dict[str, FunctionType]:
    """The public functions and methods of modules, by paths that begin with who defines them."""
    found = {}
    for module in modules:
        for name in module.__all__:
            value = getattr(module, name)
            kinds = value.__mro__ if inspect.isclass(value) else ()
            if inspect.isfunction(value):
                found[name] = value
            for cls in kinds:
                if cls.__module__.startswith("roofstep"):
                    methods = {key: _function(own) for key, own in vars(cls).items()}
                    found |= {
                        f"{cls.__module__}.{cls.__name__}.{key}": function
                        for key, function in methods.items()
                        if inspect.isfunction(function)
                        and (not key.startswith("_") or key in ("__init__", "__call__"))
                    }
    return found


def _function(own: Any) -> Any:
    """What an attribute of a class does when it is called or, a property, when it is set."""
    return own.fset if isinstance(own, property) else inspect.unwrap(getattr(own, "__func__", own))


def members(hint: Any) -> set[Any]:
    """The types that an argument or its elements may have, without what these hold."""
    if get_origin(hint) in ROWS:
        return set().union(*map(members, get_args(hint)))
    return {get_origin(hint) or hint}


def faults(path: str, function: FunctionType) -> list[str]:
    """The arguments that say nothing, and those for numbers that leave NumPy's out."""
    hints = get_type_hints(function, localns=FOR_CHECKERS)
    method = ".".join(path.split(".")[-2:])
    found = []
    for name, one in inspect.signature(function).parameters.items():
        if name in ("self", "cls"):
            continue
        kinds = members(hints.get(name, Any))
        shown = f"{method}({str(one).partition(':')[0]})"
        if Any in kinds and shown not in ANYTHING:
            found.append(f"{shown} says nothing")
        if float in kinds and not {np.floating, np.integer} <= kinds:
            found.append(f"{shown} takes a float, but no number of NumPy")
        if int in kinds and np.integer not in kinds:
            found.append(f"{shown} takes an int, but none of NumPy")
    return found


def of_numpy(hint: Any, value: Any) -> Any:
    """A number, or several, as NumPy's of the kind that the hint names."""
    if isinstance(value, (list, tuple)):
        return [of_numpy(hint, one) for one in value]
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
        return value
    return np.float32(value) if np.floating in members(hint) else np.int64(value)


def call_with_numpy(call: Callable[..., Any], **own: Any) -> None:
    """Calls it with NumPy's numbers alone: the defaults, and what is given where there is none."""
    function = call.__init__ if inspect.isclass(call) else call  # type: ignore[misc]
    hints = get_type_hints(function, localns=FOR_CHECKERS)
    arguments = {
        name: GIVEN[name] if one.default is one.empty and name not in own else one.default
        for name, one in inspect.signature(call).parameters.items()
        if one.kind is not one.VAR_KEYWORD
    }
    call(**{name: of_numpy(hints[name], value) for name, value in (arguments | own).items()})


FUNCTIONS = public(roofstep, roofstep.lr)
BASES = (roofstep.ClipGradBase, roofstep.WeightDecayRegularizer, roofstep.lr.LRScheduler)
CALLS = {
    name: value
    for module in (roofstep, roofstep.lr)
    for name in module.__all__
    if callable(value := getattr(module, name)) and value not in BASES
}


@pytest.mark.parametrize("path", FUNCTIONS)
def test_every_argument_says_what_it_takes(path: str) -> None:
    assert faults(path, FUNCTIONS[path]) == []


@pytest.mark.parametrize("name", CALLS)
def test_numbers_of_numpy_are_taken(name: str) -> None:
    w = roofstep.Parameter(np.ones(2))
    own: dict[str, dict[str, Any]] = {
        "LBFGS": {"parameters": [w]},
        "Parameter": {"data": np.ones(2)},
        "SelectedRows": {"rows": np.array([0]), "values": np.ones((1, 2))},
        "layerwise_lr_decay": {"layers": [w]},
        "preview": {"scheduler": roofstep.lr.StepDecay(0.1, step_size=2), "steps": 2},
        "set_num_threads": {"n": roofstep.get_num_threads()},
    }
    call_with_numpy(CALLS[name], **own.get(name, {}))


def test_what_is_found_in_signatures() -> None:
    def bad(bare, one: Any, row: list[Any], rate: float, count: int | None) -> None: ...  # type: ignore[no-untyped-def]

    assert [fault.split(" ", 1)[0] for fault in faults("bad", bad)] == [
        f"bad({name})" for name in ("bare", "one", "row", "rate", "count")
    ]
