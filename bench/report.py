"""What a run leaves behind: results.json, report.md and plots."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.case import Bar, Row, plots_of


def write(
    directory: Path,
    header: dict[str, str],
    cases: dict[str, Any],
    rows: dict[str, list[Row]],
    bars: list[Bar],
) -> str:
    """Write all files and return the Markdown."""
    directory.mkdir(parents=True, exist_ok=True)
    results = {"header": header, "rows": rows, "bars": list(map(_as_row, bars))}
    (directory / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    parts = ["# Benchmark", "", *(f"- {key}: {value}" for key, value in header.items())]
    for name, case in cases.items():
        parts += ["", f"## {name}", "", case.__doc__.strip(), "", _table_of(case, rows[name])]
        parts += [f"\n![{plot}]({plot})" for plot in plots_of(case, rows[name], directory)]
        parts += _notes(rows[name])
    if bars:
        parts += ["", "## Bars", "", table(map(_as_row, bars))]
    text = "\n".join(parts) + "\n"
    (directory / "report.md").write_text(text)
    return text


def _table_of(case: Any, rows: list[Row]) -> str:
    measured = [row for row in rows if "note" not in row and "failure" not in row]
    text: str = case.table(rows) if hasattr(case, "table") else table(measured)
    return text


def _notes(rows: list[Row]) -> list[str]:
    """What was not measured, and why, each once."""
    lines = [row["note"] for row in rows if "note" in row]
    lines += [
        f"**{row['item']}, {row['part']}: {row['failure']}**" for row in rows if "failure" in row
    ]
    return ["", *(f"- {line}" for line in dict.fromkeys(lines))] if lines else []


def table(rows: Iterable[Row]) -> str:
    """A Markdown table; its columns are all keys in the order in which they first come.

    The quartiles ``x, low`` and ``x, high`` stand behind the median ``x``.
    """
    listed = list(map(_folded, rows))
    if not listed:
        return "Nothing was measured."
    columns = list(dict.fromkeys(key for row in listed for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell(row.get(column)) for column in columns] for row in listed]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _folded(row: Row) -> Row:
    """With each median and its quartiles as one text."""
    folded = dict(row)
    for key in row:
        if (low := f"{key}, low") in row:
            quartiles = (cell(folded.pop(name)) for name in (low, f"{key}, high"))
            folded[key] = f"{cell(row[key])} ({' to '.join(quartiles)})"
    return folded


def cell(value: Any) -> str:
    """Three digits of a float, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def _as_row(bar: Bar) -> Row:
    row = dataclasses.asdict(bar)
    return {
        "bar": row["name"],
        "goal": f"{'<=' if bar.most else '>='} {bar.goal:g}",
        "measured": bar.measured,
        "quartiles": "" if bar.low is None else f"{cell(bar.low)} to {cell(bar.high)}",
        "met": "not measured" if bar.met is None else bar.met,
        "remark": bar.remark,
    }
