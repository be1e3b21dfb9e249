"""What the documentation shows runs: docstring examples, code of pages; every class has some."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import roofstep
from roofstep import _core, traffic

TOP = Path(__file__).parents[1]
PAGES = [TOP / "README.md", *sorted(TOP.glob("docs/*.md"))]


def modules(package: ModuleType) -> list[str]:
    """The names of all modules in it but those of other libraries, which import these."""
    found = []
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if module.name.split(".")[1] not in ("_core", "jax", "paddle", "torch"):
            inner = modules(importlib.import_module(module.name)) if module.ispkg else []
            found += [module.name, *inner]
    return found


MODULES = modules(roofstep)  # tests/parity has the others
CLASSES = [
    value
    for module in (roofstep, roofstep.lr)
    for name in module.__all__
    if inspect.isclass(value := getattr(module, name))
]


def blocks_of(page: Path, in_frameworks: bool) -> list[str]:
    """The Python of a page that needs a framework, which tests/parity runs, or that needs none."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    needs = re.compile(r"^import (torch|paddle|jax)$", re.MULTILINE)
    return [block for block in blocks if bool(needs.search(block)) is in_frameworks]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some save files
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_public_class_is_documented(cls: type) -> None:
    """A base class is shown by its subclasses; all others have an example of their own."""
    for_users = (roofstep.ClipGradBase, roofstep.WeightDecayRegularizer)  # to be subclassed
    assert "Args:" in cls.__doc__ or cls in for_users
    if not cls.__subclasses__() or cls in (*for_users, roofstep.Adam):
        assert ">>> " in cls.__doc__


def test_the_table_of_traffic_is_that_of_the_benchmark() -> None:
    """And both have every optimizer, with what its rule keeps."""
    page = (TOP / "docs" / "performance.md").read_text()
    table = page.split("## What must be moved")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([\d +]+) \|", table, re.MULTILINE))
    assert rows == {name: case.bytes for name, case in traffic.CASES.items()}
    made = {name: case.make(learning_rate=0.1) for name, case in traffic.CASES.items()}
    public = {cls for cls in CLASSES if issubclass(cls, roofstep.Optimizer)}
    assert {*map(type, made.values())} == public - {roofstep.Optimizer, roofstep.LBFGS}
    for name, optimizer in made.items():
        states = _core.rules()[optimizer._rule(optimizer._defaults)][1]
        assert traffic.CASES[name].states == len(states), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_of_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some save files
    assert "```" in page.read_text()
    for block in blocks_of(page, in_frameworks=False):
        exec(compile(block, str(page), "exec"), {})
