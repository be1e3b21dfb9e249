"""The commands that measure run and say what they measured; how fast it was is no test."""

from __future__ import annotations

import re

import numpy as np
import pytest

import roofstep
from roofstep import timing, traffic
from roofstep.__main__ import main

QUICK = ["bench", "--parameters", "5000", "--repetitions", "2"]


@pytest.fixture(autouse=True)
def _threads_as_before() -> None:
    yield
    roofstep.set_num_threads(None)


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
