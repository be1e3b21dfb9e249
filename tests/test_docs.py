"""What the documentation shows runs, and its figures are those of tests; see tests/site too."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import shlex
import subprocess
import sys
import venv
from importlib.metadata import metadata
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest

import roofstep
import test_math
import test_norm
from bench import __main__ as bench
from bench.case import Options
from roofstep import _core, traffic

TOP = Path(__file__).parents[1]
COMPILED = TOP / "docs" / "compiled.md"  # tests/wheel builds and runs what it shows
README = (TOP / "README.md").read_text()
PAGES = [TOP / "README.md", *sorted({*TOP.glob("docs/*.md")} - {COMPILED})]

# What is run of these pages here or in tests/parity, and what tests/wheel runs of pages it names.
RUN = {"python", "sh"}
RUN_WITH_WHEEL = {"c", "cpp", "cython", "python"}


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


def blocks_in(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def blocks_of(page: Path, in_frameworks: bool) -> list[str]:
    """The Python of a page that needs a framework, which tests/parity runs, or that needs none."""
    needs = re.compile(r"^import (torch|paddle|jax)$", re.MULTILINE)
    blocks = blocks_in(page, "python")
    return [block for block in blocks if bool(needs.search(block)) is in_frameworks]


# A block below such a mark is run as it stands, in a clone of its own.
COMMAND_OF_CI = re.compile(r"^<!-- command: (\w+) -->\n```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands_of(page: Path) -> list[str]:
    """The commands in the other shell blocks of a page."""
    by_ci = {block for _, block in COMMAND_OF_CI.findall(page.read_text())}
    lines = chain.from_iterable(
        block.splitlines() for block in blocks_in(page, "sh") if block not in by_ci
    )
    return [command.strip() for line in lines for command in line.split("&&")]


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


# Code.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some save files
    for block in blocks_of(page, in_frameworks=False):
        exec(compile(block, str(page), "exec"), {})


COMMANDS = [command for page in PAGES for command in commands_of(page)]
# What makes the package's own commands quick.
QUICK = {
    "demo": ["--epochs", "1"],
    "bench": ["--parameters", "5000", "--repetitions", "2"],
}


@pytest.mark.parametrize("command", [*dict.fromkeys(COMMANDS)])
def test_command_of_a_page(command: str, tmp_path: Path) -> None:
    """It runs, or of the long ones all is right that can be seen before they run."""
    match shlex.split(command):
        case ["python3", "-m", "venv", ".venv"] | [".", ".venv/bin/activate"]:
            venv.create(tmp_path / ".venv", with_pip=False)
            subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True)
        case ["pip", "install", wanted]:
            (extra,) = re.fullmatch(r"\.(?:\[(\w+)\])?", wanted).groups()
            assert extra in [None, *metadata("roofstep").get_all("Provides-Extra")]
        case ["python", "-m", "roofstep", which, *options]:
            run = [sys.executable, "-m", "roofstep", which, *options, *QUICK[which]]
            subprocess.run(run, cwd=tmp_path, check=True)
        case ["python", "-m", "bench", *options]:  # all cases of it are run by .ci/run
            args = bench.parse(options)
            chosen = Options(
                short=args.short,
                seconds=1.0,
                threads=args.threads,
                peers=tuple(args.peers),
                optimizers=tuple(args.optimizers),
                models=tuple(args.models),
            )
            assert all(bench.case_of(name).plan(chosen) for name in args.only)
        case ["python", "-m", "pytest", *options]:
            run = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
            subprocess.run(run, cwd=TOP, check=True)
        case _:
            pytest.fail("no test runs such a command")


def test_ci_runs_the_commands_that_are_marked_for_it() -> None:
    marked = [name for page in PAGES for name, _ in COMMAND_OF_CI.findall(page.read_text())]
    assert marked == re.findall(r"^readme (\w+)$", (TOP / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "page", [TOP / "README.md", *sorted(TOP.glob("docs/*.md"))], ids=lambda page: page.name
)
def test_every_language_of_a_page_is_run(page: Path) -> None:
    languages = {*re.findall(r"^```(\w.*)$", page.read_text(), re.MULTILINE)}
    others = languages - RUN if page in PAGES else languages
    assert others <= RUN_WITH_WHEEL
    if others:
        assert any(page.name in test.read_text() for test in TOP.glob("tests/wheel/*.py"))


# What pages say of each other and of the project.


def headings_in(text: str) -> list[str]:
    """Of Markdown, whose code may have comments that look like headings."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^#+ (.*)$", prose, re.MULTILINE)


def slugs_of(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub and MyST make them."""
    headings = map(str.lower, headings_in(page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page",
    [*TOP.glob("*.md"), *sorted(TOP.glob("docs/*.md"))],
    ids=lambda page: page.relative_to(TOP).as_posix(),
)
def test_every_link_leads_somewhere(page: Path) -> None:
    """On the site and where the files are read as they are: to a file, and a heading of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert file.suffix == ".md", target
            assert anchor in slugs_of(file), target


INCLUDE = re.compile(
    r"^```{include} (\S+)\n:start-after: \"(.*)\"\n:end-before: \"(.*)\"$", re.MULTILINE
)


def test_what_is_included_is_one_section() -> None:
    """What a page includes has no second heading, which would come to stand below the page's."""
    included = [
        (page.parent / file, *marks)
        for page in TOP.glob("docs/*.md")
        for file, *marks in INCLUDE.findall(page.read_text())
    ]
    assert len(included) == sum(
        page.read_text().count("\n:start-after: ") for page in TOP.glob("docs/*.md")
    )
    for file, start, end in included:
        (_, after) = file.read_text().split(f"{start}\n")
        (part, _) = after.split(end)
        assert headings_in(part) == [], start


def test_what_builds_the_package_is_installed_first() -> None:
    """Without build isolation pip installs none of `build-system.requires`."""
    project = pytest.importorskip("tomllib").loads((TOP / "pyproject.toml").read_text())
    needed = {re.match(r"[\w-]+", wanted)[0] for wanted in project["build-system"]["requires"]}
    shown = blocks_in(TOP / "CONTRIBUTING.md", "sh")[0]
    before = shown.split("--no-build-isolation")[0]
    assert needed <= {*before.split()}


def test_the_readme_has_every_extra() -> None:
    rows = README.split("\n| extra | for |\n")[1].split("\n\n")[0].splitlines()
    shown = [name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[0])]
    assert sorted(shown) == sorted(metadata("roofstep").get_all("Provides-Extra"))


# Figures.


def test_the_speed_in_the_readme_is_that_of_the_page() -> None:
    page = (TOP / "docs" / "performance.md").read_text()
    measured = {
        work: figures
        for work, *figures in re.findall(
            r"^\| AdamW, (.+?) \| ([\d.]+) \(.+?\) \| ([\d.]+) \(.+?\) \|$", page, re.MULTILINE
        )
    }
    shown = re.findall(r"^\| (.+) \| ([\d.]+)x \| ([\d.]+)x \|$", README, re.MULTILINE)
    assert shown
    for work, *figures in shown:
        assert measured[work] == figures


def rows_of(page: str, section: str) -> list[list[str]]:
    """The cells of the one table in a section, but its head."""
    text = (TOP / "docs" / page).read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [row.split(" | ") for row in re.findall(r"^\| ?(.*) \|$", text, re.MULTILINE)[1:]]


def test_the_budgets_are_those_of_the_tests() -> None:
    shown = {name: row for name, *row in rows_of("numerics.md", "How far from the mathematics")}
    public = [name for name, (cls, *_) in test_math.CLASSES.items() if cls in CLASSES]
    assert [*shown] == public
    for name in public:
        budgets = (test_math.ONE_UPDATE[name][0], *test_math.MANY_UPDATES[name].values())
        assert [*map(float, shown[name])] == [*budgets], name
    page = (TOP / "docs" / "numerics.md").read_text()
    longest = max(test_math.BUDGET_MOVE, *test_math.LONGER_MOVES.values())
    assert f"off by at most {longest:g} ULPs" in page
    assert f"RAdam in float64 is the exception, {test_math.BUDGET_RHO:g} ULPs" in page


def test_the_errors_of_norms_are_those_of_the_tests() -> None:
    shown = [float(value) for _, value in rows_of("numerics.md", "Norms")]
    assert shown == [test_norm.BUDGET_RANDOM, test_norm.BUDGET_EQUAL, test_norm.BUDGET_FLOAT64]


def test_the_table_of_traffic_is_that_of_the_benchmark() -> None:
    """And both have every optimizer, with what its rule keeps."""
    rows = {name: moved for name, moved, *_ in rows_of("performance.md", "What must be moved")}
    assert rows == {name: case.bytes for name, case in traffic.CASES.items()}
    made = {name: case.make(learning_rate=0.1) for name, case in traffic.CASES.items()}
    public = {cls for cls in CLASSES if issubclass(cls, roofstep.Optimizer)}
    assert {*map(type, made.values())} == public - {roofstep.Optimizer, roofstep.LBFGS}
    for name, optimizer in made.items():
        states = _core.rules()[optimizer._rule(optimizer._defaults)][1]
        assert traffic.CASES[name].states == len(states), name
