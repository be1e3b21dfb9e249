"""Kernels: one tensor of one rule, beside the streaming loop of its traffic.

These are times of benchmarks that ran one after the other, not in turns: a share here is a hint,
what counts stands under roof. Run is a subset of bench/test_kernels.py: four rules at every size;
every rule, and AdamW in every dtype on every ISA, at 64 K elements on one thread.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.case import Item, Options, Row
from roofstep import _core, traffic

HERE = Path(__file__).parent
# Not those that zero the gradients: after a thousand steps their moments would be denormal.
CASES = [name for name, case in traffic.CASES.items() if not case.clears]
SIZED = ("SGD", "Momentum", "AdamW", "Lamb")
BUDGET = 0.2  # seconds for a benchmark, for each second that is given to a comparison


def slug(name: str) -> str:
    """A name without what -k takes for an operator."""
    return re.sub(r"\W+", "_", name).lower()


def plan(options: Options) -> list[Item]:
    """What pytest selects: the three parts of the subset, or all sizes of the rules asked for."""
    isa = _core.isa()
    names = [name for name in options.optimizers or SIZED if name in CASES]
    if not names:
        return []
    rules = " or ".join(f"[{slug(name)}-" for name in names)
    if options.short:
        selections = {"sizes": f"float32-{isa}-16K-1t and ({rules})"}
    else:
        selections = {"sizes": f"float32-{isa} and ({rules})"}
        if not options.optimizers:
            selections["rules"] = f"float32-{isa}-64K-1t"
            selections["ISAs and dtypes"] = "[adamw- and 64K-1t"
    return [Item(name, arguments={"select": select}) for name, select in selections.items()]


def measure(options: Options, item: Item) -> Iterable[Row]:
    """What pytest-benchmark measures, with the loop of the same traffic in the same row."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        yield {"item": item.name, "note": "kernels: not measured, pytest-benchmark is missing"}
        return
    results: dict[tuple[Any, ...], dict[str, float]] = {}
    for one in _benchmarks(item.arguments["select"], BUDGET * options.seconds):
        about = one["extra_info"]
        what = about.pop("what")
        results.setdefault(tuple(about.items()), {})[what] = one["stats"]["median"]
    for key, medians in results.items():
        about = dict(key)
        elements, moved = about["elements"], about.pop("bytes")
        yield {
            "set": item.name,
            **about,
            "ns/element": 1e9 * medians["step"] / elements,
            "GB/s": moved * elements / medians["step"] / 1e9,
            "streaming loop": moved * elements / medians["stream"] / 1e9,
            "share": medians["stream"] / medians["step"],
        }


def _benchmarks(select: str, seconds: float) -> list[dict[str, Any]]:
    """Those of a run of pytest."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "benchmarks.json"
        options = [
            f"--benchmark-json={path}",
            f"--benchmark-max-time={seconds}",
            "-q",
            "-k",
            select,
        ]
        command = [sys.executable, "-m", "pytest", str(HERE / "test_kernels.py"), *options]
        run = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"pytest -k '{select}' ended with {run.returncode}: {run.stdout}")
        benchmarks: list[dict[str, Any]] = json.loads(path.read_text())["benchmarks"]
    return benchmarks


def plot(rows: list[Row], directory: Path) -> list[str]:
    """GB/s of step and streaming loop against the size, for each rule that was run at several."""
    from matplotlib.figure import Figure

    rules: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("set") == "sizes":
            rules.setdefault(row["rule"], []).append(row)
    if not rules:
        return []
    figure = Figure(figsize=(4 * len(rules), 3.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
    for panel, (rule, measured) in zip(panels, rules.items(), strict=True):
        for threads, colour in ((1, "tab:blue"), (2, "tab:green")):
            points = [row for row in measured if row["threads"] == threads]
            sizes = [row["elements"] for row in points]
            for what, style in (("GB/s", "o-"), ("streaming loop", ":")):
                rates = [row[what] for row in points]
                name = "step" if what == "GB/s" else what
                panel.plot(sizes, rates, style, color=colour, label=f"{name}, threads: {threads}")
        panel.set(title=rule, xlabel="elements", xscale="log", ylim=(0, None))
        panel.grid(alpha=0.3)
    panels[0].set(ylabel="GB/s")
    panels[-1].legend(frameon=False, loc="upper right")
    figure.savefig(directory / "kernels.png")
    return ["kernels.png"]
