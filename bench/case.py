"""What a case of the benchmark is, what it is told, and what it gives.

A case is a module of this package, whose docstring heads its part of the report. It has

- ``plan(options)``: the list of its `Item`s, made in the parent process, where no peer is imported;
- ``measure(options, item)``: the rows of one item, made in a child process. A row is a flat dict of
  text, numbers and None, one line of the case's table; a key ``note`` says what is not measured
  and why;

and, if it likes,

- ``bars(rows)``: the `Bar`s that its rows are held to;
- ``table(rows)``: its Markdown; without it the rows are printed as they are;
- ``plot(rows, directory)``: draws PNG files and returns their names.

To add one: the module, and its name in ``CASES`` of ``__main__.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What the command line asks for; an empty tuple means all."""

    short: bool = False
    seconds: float = 1.0  # for each comparison, set-up and warm-up apart
    threads: int = 1
    peers: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """One piece of work of a case. All items of a ``part`` share a process with no others.

    A part is named after the peer library that its process loads, so that the threads of one
    library never spin beside the measurement of another.
    """

    name: str
    part: str = "roofstep"
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bar:
    """A goal, what was measured (with its quartiles where it is a median), and whether it is met.

    ``measured`` is None where nothing was measured; ``most`` turns the goal from a least into a
    most.
    """

    name: str
    goal: float
    measured: float | None
    low: float | None = None
    high: float | None = None
    most: bool = False
    remark: str = ""

    @property
    def met(self) -> bool | None:
        """None if nothing was measured."""
        if self.measured is None:
            return None
        return self.measured <= self.goal if self.most else self.measured >= self.goal


class Case(Protocol):
    """A module as described above."""

    __doc__: str

    def plan(self, options: Options) -> list[Item]: ...

    def measure(self, options: Options, item: Item) -> Iterable[Row]: ...


def bars_of(case: Any, rows: list[Row]) -> list[Bar]:
    """The bars of a case, none if it has none."""
    return list(case.bars(rows)) if hasattr(case, "bars") else []


def plots_of(case: Any, rows: list[Row], directory: Path) -> list[str]:
    """The names of the plots that a case has drawn."""
    return list(case.plot(rows, directory)) if hasattr(case, "plot") else []
