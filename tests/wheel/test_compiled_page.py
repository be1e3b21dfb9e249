"""The page of the compiled door and the README's section: all code on them is built and run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from building import build_in_place, declared, includes, report, strict
from conftest import SOURCE, Environment

PAGE = SOURCE / "docs" / "compiled.md"
README = SOURCE / "README.md"


def blocks_of(page: Path) -> dict[str, str]:
    """The code on the page by the file names that stand in the first lines."""
    found = {}
    text = page.read_text()
    for language, block in re.findall(r"```(cython|c|cpp|python)\n(.*?)```", text, re.DOTALL):
        name = re.match(r"(?:#|//|/\*) (\w+\.(?:pyx|c|cpp|py))(?: \*/)?\n", block)
        if page == PAGE or language == "cython":
            assert name, block
            found[name[1]] = block
    return found


def write_blocks(page: Path, folder: Path) -> dict[str, str]:
    blocks = blocks_of(page)
    for name, block in blocks.items():
        (folder / name).write_text(block)
    return blocks


def test_the_page_runs(workshop: Environment, tmp_path: Path) -> None:
    """Its modules are built by its own setup.py, in strict C99 too; then its scripts are run."""
    blocks = write_blocks(PAGE, tmp_path)
    assert len(blocks) == PAGE.read_text().count("\n```") // 2
    build_in_place(workshop, tmp_path)
    strict(tmp_path / "vectors.c", "-std=c99", *includes(workshop))
    for name in blocks:
        if name.endswith(".py") and name != "setup.py":
            workshop.run(name, cwd=tmp_path)


def test_the_tables_of_the_page_are_those_of_the_header(workshop: Environment) -> None:
    """Each rule with its states and settings, in the order of the arguments; and the statuses."""
    page = PAGE.read_text()
    rows = re.findall(r"^\| `([a-z]+)` \|([^|\n]*)\|([^|\n]*)\|$", page, re.MULTILINE)
    shown = {f"sum_squares_f{bits}": ["x", "n"] for bits in (32, 64)}
    for name, *cells in rows:
        states, settings = (re.findall(r"`(\w+)`", cell) for cell in cells)
        for form, where in (("f", ["n"]), ("rows_f", ["rows", "count", "height", "width"])):
            for bits in (32, 64):
                order = ["param", "grad", *states, *where, "learning_rate", *settings]
                shown[f"{name}_{form}{bits}"] = order
    assert shown == {name: [*takes] for name, (_, takes) in declared(workshop).items()}

    header = Path(includes(workshop)[1], "roofstep", "roofstep.h").read_text()
    statuses = re.findall(r"^  (ROOFSTEP_\w+) = (\d)", header, re.MULTILINE)
    assert re.findall(r"^\| `(ROOFSTEP_\w+)` \| (\d) \|", page, re.MULTILINE) == statuses


README_RUNS = """
import json
import numpy as np
import regression

w, moment1, moment2 = np.zeros((3, 5))
for t in range(1, 4):
    regression.step(w, np.ones(5), moment1, moment2, t)
print(json.dumps(w.tolist()))
"""


def test_the_readme_runs(workshop: Environment, tmp_path: Path) -> None:
    (name,) = write_blocks(README, tmp_path)
    workshop.run("-m", "Cython.Build.Cythonize", "-q", "-3", "-i", name, cwd=tmp_path)
    assert report(workshop, tmp_path, README_RUNS) == pytest.approx([-3e-3] * 5)
