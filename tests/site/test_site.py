"""The site, built with warnings as errors: all that is public is on it, and all its code is run."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
from sphinx.util.inventory import InventoryFile

import roofstep
from test_docs import COMPILED, PAGES, RUN, RUN_WITH_WHEEL, TOP, blocks_in

PACKAGE = Path(roofstep.__file__).parent
# The modules for users, by their files; those of libraries are not imported here.
MODULES = {
    "roofstep": "__init__.py",
    "roofstep.lr": "lr.py",
    "roofstep.torch": "torch/__init__.py",
    "roofstep.paddle": "paddle/__init__.py",
    "roofstep.paddle.lr": "paddle/lr.py",
    "roofstep.jax": "jax/__init__.py",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The pages as Sphinx has read them, and the names that they describe."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(out)]
    built = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    inventory = InventoryFile.loads((out / "objects.inv").read_bytes(), uri="")
    return SimpleNamespace(
        out=out,
        pages={
            path.relative_to(out / ".doctrees").with_suffix("").as_posix(): pickle.loads(
                path.read_bytes()
            )
            for path in (out / ".doctrees").rglob("*.doctree")
        },
        names={
            name for kind, found in inventory.data.items() if kind[:3] == "py:" for name in found
        },
    )


def public_names() -> Iterator[str]:
    for module, file in MODULES.items():
        (names,) = (
            ast.literal_eval(node.value)
            for node in ast.parse((PACKAGE / file).read_text()).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        )
        yield from (f"{module}.{name}" for name in names)


def test_every_public_name_is_on_the_site(site: SimpleNamespace) -> None:
    assert {*public_names()} - site.names == set()


def test_every_method_of_an_optimizer_is_on_the_site(site: SimpleNamespace) -> None:
    methods = {name for name in vars(roofstep.Optimizer) if not name.startswith("_")}
    assert {f"roofstep.Optimizer.{name}" for name in methods} - site.names == set()


def test_every_module_for_users_is_looked_at(site: SimpleNamespace) -> None:
    """A new one with an ``__all__`` is public, or is named here as what is not."""
    with_names = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^__all__ = ", path.read_text(), re.MULTILINE)
    }
    assert with_names - {*MODULES.values()} == {"paddle/static/__init__.py"}


def test_all_code_on_the_site_is_run(site: SimpleNamespace) -> None:
    """Each block is one of a page, which tests run by its language, or a docstring's example."""
    sources = [(page, RUN) for page in PAGES]
    sources += [(COMPILED, RUN_WITH_WHEEL)] if COMPILED.exists() else []
    run = {
        block.strip()
        for page, languages in sources
        for language in languages
        for block in blocks_in(page, language)
    }
    seen = 0
    for name, page in site.pages.items():
        for block in page.findall(nodes.literal_block):
            assert block.astext().strip() in run, name
            seen += 1
    assert seen > 20


def test_examples_on_the_site_are_those_of_docstrings(site: SimpleNamespace) -> None:
    """Which tests/test_docs.py and tests/parity run."""
    docstrings = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    squeezed = re.sub(r"\s+", " ", docstrings)
    for name, page in site.pages.items():
        examples = [*page.findall(nodes.doctest_block)]
        assert not examples or name.startswith("api/")
        for example in examples:
            assert re.sub(r"\s+", " ", example.astext().strip()) in squeezed, name


def test_the_site_needs_no_other_host(site: SimpleNamespace) -> None:
    """Links go where they say; scripts, styles, fonts and images are its own."""
    for path in site.out.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"([^\"]*)\"|<link rel=\"(?:stylesheet|preload)\""
            r"[^>]* href=\"([^\"]*)\"",
            path.read_text(),
        )
        for address in map("".join, loaded):
            assert not re.match(r"(https?:)?//", address), path


def test_formulas_are_mathml(site: SimpleNamespace) -> None:
    page = (site.out / "api" / "optimizers.html").read_text()
    assert page.count("<math") > 50
    assert "\\leftarrow" not in page
