"""The benchmark against peers: what it compares, names and judges; NumPy is the peer at hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import __main__ as bench
from bench import child, models, peers, roof, shapes, sizes, versus
from bench.case import Item, Options
from bench.peers import in_numpy
from bench.settings import SETTINGS
from roofstep import traffic

Row = dict[str, Any]


def test_the_short_form_runs(tmp_path: Path) -> None:
    """What it finds at these sizes says nothing; the report has every case, and its plots."""
    arguments = ["--short", "--seconds", "0.001", "--peers", "numpy", "--out", str(tmp_path)]
    assert bench.main([*arguments, "--only", "roof", "models", "sizes"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    rows = results["rows"]
    assert [row["optimizer"] for row in rows["roof"]] == [*traffic.CASES, roof.NORM]
    assert {(row["model"], row["peer"]) for row in rows["models"]} == {("MLP", "NumPy")}
    assert [(row["tensors"], row["elements"]) for row in rows["sizes"][::2]] == [
        (1, 4096),
        (100, 64),
    ]
    for row in rows["models"] + rows["sizes"]:
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
    assert results["bars"] == []
    report = (tmp_path / "report.md").read_text()
    assert "- ISA: " in report
    assert "**MLP**: 269322 parameters, 6 tensors" in report
    plots = re.findall(r"^!\[.*\]\((.*)\)$", report, re.MULTILINE)
    assert plots == ["share-of-the-roof.png", "time-against-size.png", "ns-per-tensor.png"]
    assert all((tmp_path / plot).stat().st_size > 0 for plot in plots)


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("optimizer", SETTINGS)
def test_numpy_and_roofstep_agree(optimizer: str, clipped: bool) -> None:
    assert versus.check("numpy", "NumPy", optimizer, clipped) == versus.SAME


def test_a_peer_with_other_results_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**in_numpy.RULES, "SGD": (0, lambda g, *_: np.float32(1.01) * g)}
    monkeypatch.setattr(in_numpy, "RULES", wrong)
    versus._checked.cache_clear()
    with pytest.raises(AssertionError, match="NumPy and roofstep differ by"):
        next(versus.compared("numpy", [(3,)], "SGD", False, 0.001, 1))
    monkeypatch.setattr(in_numpy, "DIFFERS", {"SGD": "another rate"})
    row = next(versus.compared("numpy", [(3,)], "SGD", False, 0.001, 1))
    assert row["formula"] == "another rate"
    versus._checked.cache_clear()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_numpy, "REQUIRES", ("no_such_library",))
    rows = list(versus.compared("numpy", [(3,)], "SGD", False, 0.001, 1))
    assert rows == [{"note": "numpy is not installed: pip install numpy"}]


def test_what_a_peer_does_not_have_is_named() -> None:
    assert versus.excuse("torch", "torch fused", "AdamW", 10_000) is None
    assert versus.excuse("torch", "torch fused", "Lamb", 1) == "torch fused has no Lamb"
    assert "more than 1000 tensors" in (versus.excuse("optax", "optax", "AdamW", 1001) or "")
    assert versus.excuse("optax", "optax", "AdamW", 1000) is None
    for name in peers.LIBRARIES:
        module = peers.library(name)
        for known in module.VARIANTS.values():
            assert set(known) <= set(SETTINGS)
            assert set(module.DIFFERS) <= set(SETTINGS)


def test_an_item_that_fails_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"optimizer": "SGD", "clipped": False, "tensors": 1, "elements": 3}
    items = [Item("bad", "numpy", {}), Item("good", "numpy", size)]
    options = Options(short=True, seconds=0.001)
    failed, good = child.run("sizes", items, options)
    assert failed == {"item": "bad", "part": "numpy", "failure": "KeyError: 'tensors'"}
    assert good["peer"] == "NumPy"

    def ends_early(case: str, waiting: list[Item], options: Options) -> Iterator[list[Row]]:
        if waiting[0].name != "bad":
            yield [{"measured": waiting[0].name}]

    monkeypatch.setattr(child, "_start", ends_early)
    ended, other = child.run("sizes", items, options)
    assert ended["failure"] == "its process ended"
    assert other == {"measured": "good"}


def test_shapes_are_those_of_the_models() -> None:
    found = {name: (len(model), shapes.count(model)) for name, model in shapes.MODELS.items()}
    assert found == {
        "MLP": (6, 269_322),
        "ResNet-50": (161, 25_557_032),
        "BERT-base": (199, 109_482_240),
        "GPT-2": (148, 124_439_808),
        "MobileNetV3": (174, 5_483_032),
        "1000 x 64": (1000, 64_000),
        "10 000 x 16": (10_000, 160_000),
    }


def test_models_are_held_to_the_best_peer() -> None:
    about = {"model": "GPT-2", "optimizer": "AdamW", "clipped": False}
    rows: list[Row] = [
        about | {"peer": peer, "ratio": ratio, "low": ratio / 2, "high": 2 * ratio}
        for peer, ratio in (("slow", 9.0), ("best", 1.2), ("middling", 2.0))
    ]
    (bar,) = models.bars([*rows, {"note": "none"}])
    assert (bar.goal, bar.measured, bar.low, bar.remark, bar.met) == (1.1, 1.2, 0.6, "best", True)
    (bar,) = models.bars([row | {"clipped": True} for row in rows])
    assert (bar.goal, bar.met) == (1.3, False)


def test_sizes_are_held_to_their_lower_quartiles() -> None:
    about = {"optimizer": "AdamW", "clipped": False, "arrays": "NumPy", "peer": "NumPy"}
    about |= {"own_low_us": 50.0, "own_high_us": 70.0}
    rows: list[Row] = [
        about
        | {"tensors": 1000, "elements": 64, "own_us": 59.0, "ratio": 9.0, "low": 8.0, "high": 10.0},
        about | {"tensors": 1, "elements": 1, "own_us": 5.0, "ratio": 1.1, "low": 0.9, "high": 1.2},
    ]
    every, tiny = sizes.bars(rows)
    assert (every.measured, every.met) == (0.9, False)
    assert "1 x 1" in every.remark
    assert (tiny.measured, tiny.goal, tiny.met) == (59.0, 60, True)
    assert [bar.met for bar in sizes.bars(rows[:1])] == [True, True]


@pytest.mark.parametrize(
    "option", ["--peers", "--optimizers", "--models", "--only", "--items", "--seconds"]
)
def test_the_command_line_refuses_what_it_does_not_know(option: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.main(
            [
                "--only",
                "models",
                "--out",
                str(tmp_path),
                option,
                "-7" if option == "--seconds" else "unheard-of",
            ]
        )
    assert caught.value.code != 0
    assert not any(tmp_path.iterdir())
