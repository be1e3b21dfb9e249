"""The site, built with warnings as errors: all that is public is on it, and all its code is run."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
from sphinx import addnodes
from sphinx.util.inventory import InventoryFile

import roofstep
import roofstep.torch
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
    "roofstep.kernels": "kernels.pyi",
}
KINDS = (roofstep.Optimizer, roofstep.lr.LRScheduler, roofstep.torch.Optimizer)


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


def names_in(file: str) -> list[str]:
    """Those of ``__all__``; a compiled module has none, but a stub of what users see."""
    names = []
    for node in ast.parse((PACKAGE / file).read_text()).body:
        match node:
            case ast.Assign([ast.Name("__all__")], value):
                return ast.literal_eval(value)
            case ast.AnnAssign(ast.Name(name)) | ast.FunctionDef(name) if name[0] != "_":
                names.append(name)
    assert file.endswith(".pyi")
    return names


def public_names() -> Iterator[str]:
    for module, file in MODULES.items():
        yield from (f"{module}.{name}" for name in names_in(file))


def test_every_public_name_is_on_the_site(site: SimpleNamespace) -> None:
    assert {*public_names()} - site.names == set()


def public_classes() -> Iterator[tuple[str, type]]:
    """Optimizers and schedules, by their names on the site."""
    for module in (roofstep, roofstep.lr, roofstep.torch):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and issubclass(value, KINDS):
                yield f"{module.__name__}.{name}", value


def test_every_method_is_on_the_site(site: SimpleNamespace) -> None:
    """A subclass's own too, unless it says nothing new of it, as the formula of a schedule."""
    assert {roofstep.LBFGS, roofstep.lr.StepDecay, roofstep.torch.Adam} < {
        cls for _, cls in public_classes()
    }
    for where, cls in public_classes():
        own = (base for base in cls.__mro__ if base is cls or base.__name__[0] == "_")
        told = {
            name
            for base in own
            for name, value in vars(base).items()
            if not name.startswith("_") and (value.__doc__ or cls in KINDS)
            if inspect.isroutine(value) or isinstance(value, property)
        }
        assert {f"{where}.{name}" for name in told} - site.names == set()


def test_every_module_for_users_is_looked_at(site: SimpleNamespace) -> None:
    """A new one with an ``__all__`` is public, or is named here as what is not."""
    with_names = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.suffix == ".pyi"
        or (path.suffix == ".py" and re.search(r"^__all__ = ", path.read_text(), re.MULTILINE))
    }
    assert with_names - {*MODULES.values()} == {"_core.pyi", "paddle/static/__init__.py"}


def test_all_code_on_the_site_is_run(site: SimpleNamespace) -> None:
    """Each block is one of a page, which tests run by its language, or a docstring's example."""
    run = {
        block.strip()
        for page in (*PAGES, COMPILED)  # tests/test_docs.py says which language is run where
        for language in RUN | RUN_WITH_WHEEL
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


class Loaded(HTMLParser):
    """What a browser asks for by itself when it shows a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses = loaded_by_style(page)  # in elements and attributes of style
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects what the tag loads; a link of a page says by `rel` that it loads nothing."""
        given = {name: value or "" for name, value in attrs}
        names = {"src", "data", "poster"}
        if tag == "link" and not {*given["rel"].split()} <= ONLY_SAID:
            names.add("href")
        self.addresses += [given[name] for name in names & {*given}]
        self.addresses += given.get("srcset", "").replace(",", " ").split()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """As one without the slash."""
        self.handle_starttag(tag, attrs)


ONLY_SAID = {"author", "canonical", "help", "index", "license", "next", "prev", "search"}


def loaded_by_style(text: str) -> list[str]:
    return re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s;]+)", text)


def of_others(addresses: list[str]) -> list[str]:
    return [address for address in addresses if re.match(r"(https?:)?//", address)]


def test_the_site_needs_no_other_host(site: SimpleNamespace) -> None:
    """Links go where they say; scripts, styles, fonts and images are its own."""
    for path in site.out.rglob("*.html"):
        assert of_others(Loaded(path.read_text()).addresses) == [], path
    for path in site.out.rglob("*.css"):
        assert of_others(loaded_by_style(path.read_text())) == [], path


@pytest.mark.parametrize(
    "page",
    [
        '<script async src="https://a.example/x.js"></script>',
        '<link rel="stylesheet" type="text/css" href="//a.example/x.css" />',
        '<link href="https://a.example" crossorigin rel="preconnect">',
        "<style>@import 'https://a.example/x.css';</style>",
        "<style>p { background: url( https://a.example/x.png) }</style>",
        '<p style="background: url(//a.example/x.png)">',
        '<img alt="" srcset="x.png 1x, https://a.example/x.png 2x">',
    ],
)
def test_another_host_is_seen(page: str) -> None:
    assert len(of_others(Loaded(page).addresses)) == 1


def test_classes_for_paddle_lead_to_those_they_mirror(site: SimpleNamespace) -> None:
    references = site.pages["api/paddle"].findall(addnodes.pending_xref)
    targets = {reference["reftarget"] for reference in references}
    for ours, theirs in (("roofstep", "roofstep.paddle"), ("roofstep.lr", "roofstep.paddle.lr")):
        mirrored = {*names_in(MODULES[ours])} & {*names_in(MODULES[theirs])} - {"LRScheduler"}
        assert {f"{ours}.{name}" for name in mirrored} - targets == set()
        assert len(mirrored) > 10


def test_formulas_are_mathml(site: SimpleNamespace) -> None:
    page = (site.out / "api" / "optimizers.html").read_text()
    assert page.count("<math") > 50
    assert "\\leftarrow" not in page


def test_formulas_are_read_as_they_are_meant(site: SimpleNamespace) -> None:
    r"""Docutils takes the 12 of `\frac12` for one number, and a lone `\` for a space."""
    for name, page in site.pages.items():
        for kind in (nodes.math, nodes.math_block):
            for formula in page.findall(kind):
                text = formula.astext()
                assert not re.search(r"frac\d|(?<!\\)\\$", text, re.MULTILINE), (name, text)
