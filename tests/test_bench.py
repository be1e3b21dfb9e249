"""What measures runs, says what it measured, and would see it; how fast it was is no test."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import roofstep
from bench import __main__ as bench
from bench import idle, kernels, loops, memory
from bench.case import Options
from roofstep import timing, traffic
from roofstep.__main__ import main

QUICK = ["bench", "--parameters", "5000", "--repetitions", "2"]


def test_the_command_shows_the_roof_and_each_share(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "threads: 1;" in shown
    assert "5000 float32 parameters" in shown
    row = r"^  (\S.*?) +([\d +]+?) +([\d.]+) +([\d.]+) +([\d.]+) \(([\d.]+) to ([\d.]+)\)$"
    rows = re.findall(row, shown, re.MULTILINE)
    names = ("SGD", "Momentum", "AdamW", "AdamW, clipped")
    assert [(name, total) for name, total, *_ in rows] == [
        (name, traffic.CASES[name].bytes) for name in names
    ]
    for _, _, *numbers in rows:
        roof, step, share, low, high = map(float, numbers)
        assert min(roof, step) > 0
        assert low <= share <= high
    assert re.search(r"^1000 tensors of 64 elements, .*: [1-9]\d* ns for each", shown, re.MULTILINE)


@pytest.mark.parametrize("option", ["--parameters", "--threads", "--repetitions"])
def test_the_command_refuses_other_than_whole_numbers(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in ("0", "-1", "1e6", "many"):
        with pytest.raises(SystemExit):
            main(["bench", option, wrong])
        message = capsys.readouterr().err
        assert f"argument {option}: expected a whole number from" in message
        assert repr(wrong) in message


def test_the_command_says_when_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(traffic, "Roof", refuse)
    assert main(QUICK) == 1
    assert "take fewer --parameters" in capsys.readouterr().err


@pytest.mark.parametrize("name", traffic.CASES)
def test_a_case_steps_as_it_says(name: str) -> None:
    """It moves the parameter, clips, averages and clears where its traffic has that."""
    case = traffic.CASES[name]
    parameter = traffic.parameter(100)
    start = parameter.data.copy()
    step = case.step([parameter])
    step()
    optimizer = getattr(step, "func", step).__self__
    assert (parameter.data != start).any()
    assert (optimizer.last_grad_norm is not None) == case.clips
    assert (not parameter.grad.any()) == case.clears
    assert any("average" in key for key in optimizer.state_dict()) == case.averages


def test_a_roof_streams_over_the_arrays_of_every_pass() -> None:
    """What is updated is halved and added to; of a pass that only reads, nothing is."""
    roof = traffic.Roof(7, [traffic.CASES["AdamW"]])
    roof.stream([traffic.Pass(0, 1)])
    assert all((array == 1).all() for array in roof._arrays)
    roof.stream([traffic.Pass(3, 1)])
    expected = [1.5, 1.5, 1.5, 1.0]
    assert [array.tolist() for array in roof._arrays] == [[x] * 7 for x in expected]


def test_in_turns_waits_before_every_work_and_rotates() -> None:
    seen: list[str] = []
    works = {name: lambda name=name: seen.append(name) for name in "abc"}
    times = timing.in_turns(works, 4, lambda: seen.append("-"))
    assert "".join(seen) == "-a-b-c" + "-b-c-a" + "-c-a-b" + "-a-b-c"
    assert {name: len(row) for name, row in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert min(map(min, times.values())) >= 0


def test_compare_pairs_the_two() -> None:
    work = np.zeros(10).sum
    comparison = timing.compare(work, lambda: [work() for _ in range(100)], 0.0, least=5, most=5)
    row = comparison.row()
    assert row["pairs"] == 5
    assert row["low"] <= row["ratio"] <= row["high"]
    assert row["ratio"] > 1


def test_idle_runs_and_reports(tmp_path: Path) -> None:
    """Bars are not judged in short; the rows hold what the table shows."""
    only = ["--short", "--only", "idle", "--items", "sleep*", "--out", str(tmp_path)]
    assert bench.main(only) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]["idle"]
    assert [row["pause_ms"] for row in rows] == [0, 20]
    for row in rows:
        for name in ("1 thread", "2 threads", "default"):
            middle, q95, most = (row[f"{name}, {which}"] for which in ("us", "q95", "max"))
            assert 0 < middle <= q95 <= most
    assert "| elements | pause, ms | 1 thread |" in (tmp_path / "report.md").read_text()


def test_the_pause_is_held_to_the_worst_size() -> None:
    rows = [
        {"kind": "sleep", "pause_ms": pause, "elements": size}
        | {"default / better": ratio, "default / better, low": 1.0, "default / better, high": 9.0}
        for pause, size, ratio in ((0, 10, 8.0), (20, 10, 1.1), (20, 20, 1.2), (5, 10, 1.1))
    ]
    found = {bar.name: (bar.measured, bar.met, bar.remark) for bar in idle.bars(rows)}
    ratio = "default / better of 1 and 2 threads after"
    assert found == {
        f"{ratio} 20 ms, sleep": (1.2, False, "worst at 20 elements"),
        f"{ratio} 5 ms, sleep": (1.1, True, "worst at 10 elements"),
    }


def test_loops_compare_blocks_of_one_round() -> None:
    """Forward and backward beside torch's step and beside none, steps beside roofstep's."""
    quiet = {loops.NONE: (1.0, 0.0), loops.FUSED: (1.1, 0.4), loops.OWN: (1.1, 0.2)}
    quiet[loops.STREAM] = (1.05, 0.1)
    loud = {name: (3 * a, 3 * b) for name, (a, b) in quiet.items()}
    rounds = [quiet, loud, quiet]
    rows = [{"network": "n"} | loops.row_of(name, rounds) for name in quiet]
    assert rows[1]["step / roofstep's"] == pytest.approx(2)
    assert rows[2]["share"] == pytest.approx(0.2 / 1.3)
    beside_torch, beside_none = loops.bars(rows)
    assert beside_torch.measured == pytest.approx(1)
    assert beside_torch.met is True
    assert beside_none.measured == pytest.approx(1.1)
    assert beside_none.met is False
    assert beside_none.remark == "with torch fused it is 1.100, with streaming loop it is 1.050"


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="only Linux tells the peak")
def test_memory_sees_a_temporary() -> None:
    """In a process of its own, as the benchmark measures: in this one others come and go.

    A page that the process gives back meanwhile is missing in the rise. And Linux counts pages in
    parts for each CPU, of which the peak misses what has not been handed on yet: in one process of
    some 30 it is low for good, so that another is asked.
    """
    code = """
import numpy as np
from bench import memory
size, few = 4 << 20, memory.ALLOWED * memory.PAGE
step = lambda: np.ones(size, np.uint8)
for _ in range(3):
    step()
seen, nothing = memory.rise(step), memory.rise(lambda: None)
assert abs(seen - size) < few and nothing < few, (seen - size, nothing)
"""
    top = Path(memory.__file__).parents[1]
    runs = (subprocess.run([sys.executable, "-c", code], cwd=top) for _ in range(4))
    assert any(run.returncode == 0 for run in runs)


def test_memory_allows_the_sums_of_norms_and_a_few_pages() -> None:
    row = {"library": "roofstep", "optimizer": "AdamW", "gradient": "transposed"}
    sums = {"of these sums": 65536}
    for pages, met in ((8, True), (9, False)):
        (bar,) = memory.bars([row | sums | {"bytes above": 65536 + 4096 * pages}])
        assert bar.met is met


def test_kernels_select_what_they_name() -> None:
    """Every selection of the subset has steps and their streaming loops."""
    from bench.test_kernels import ALL

    names = [f"test_kernel[{one.id}]" for one in ALL]
    assert len({*names}) == len(names)
    assert math.prod((len(kernels.CASES), 2, len(roofstep._core.isas()), 9, 2, 2)) == len(names)
    for options in (Options(), Options(short=True), Options(optimizers=("Lion", "AdamW, clipped"))):
        for item in kernels.plan(options):
            every, _, some = item.arguments["select"].partition(" and ")
            chosen = [name for name in names if every in name]
            if some:
                words = some.strip("()").split(" or ")
                chosen = [name for name in chosen if any(word in name for word in words)]
            assert chosen
            assert sum("-step" in name for name in chosen) * 2 == len(chosen)
    assert kernels.plan(Options(optimizers=("unheard of",))) == []
