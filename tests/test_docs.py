"""What the documentation shows runs: docstring examples, README code; and every class has some."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import roofstep

README = Path(__file__).parents[1] / "README.md"
PACKAGE = pkgutil.walk_packages(roofstep.__path__, "roofstep.")
MODULES = [m.name for m in PACKAGE if m.name != "roofstep._core"]
CLASSES = [
    value
    for module in (roofstep, roofstep.lr)
    for name in module.__all__
    if inspect.isclass(value := getattr(module, name))
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_public_class_is_documented(cls: type) -> None:
    """A base class is shown by its subclasses; all others have an example of their own."""
    for_users = (roofstep.ClipGradBase, roofstep.WeightDecayRegularizer)  # to be subclassed
    assert "Args:" in cls.__doc__ or cls in for_users
    if not cls.__subclasses__() or cls in (*for_users, roofstep.Adam):
        assert ">>> " in cls.__doc__


def test_readme_code() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(README), "exec"), {})
