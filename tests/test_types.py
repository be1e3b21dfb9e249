"""Types where no checker looks: how the compiled functions are called, and that nothing is Any."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from math import inf
from operator import attrgetter
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import roofstep
from roofstep import _core

CLASSES = [
    value
    for module in (roofstep, roofstep.lr)
    for name in module.__all__
    if inspect.isclass(value := getattr(module, name))
]


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


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_no_argument_of_a_class_is_any(cls: type) -> None:
    hints = get_type_hints(cls.__init__)
    if cls is roofstep.Optimizer:
        del hints["settings"]  # those of subclasses
    assert Any not in hints.values()
