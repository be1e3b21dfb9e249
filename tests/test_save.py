"""Checkpoints in files: bit for bit, whole or not at all, and refused if anything is wrong."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import killed
import roofstep as rs
from bench import memory
from roofstep.checkpoint import file, plain, replace
from test_process import Stepping, large, running
from test_state import OPTIMIZERS, each_rate, nothing_changed, parameters, poor, rich, train

TOP = Path(__file__).parents[1]


def identical(a: Any, b: Any) -> bool:
    """The same types and values throughout, in every bit, NaN included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return identical([*a.items()], [*b.items()])
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, (np.ndarray, np.generic)):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return bool(a == b or (a != a and b != b)) and str(a) == str(b)


def in_order(state_dict: dict[str, Any]) -> dict[str, Any]:
    """By name: parameters keep no order of their states."""
    return dict(sorted(state_dict.items()))


def blank(optimizer: rs.Optimizer) -> list[rs.Parameter]:
    """Parameters like those of an optimizer, of zeros."""
    return [rs.Parameter(np.zeros_like(p.data), p.name) for p in optimizer.parameters]


def values(optimizer: rs.Optimizer) -> list[bytes]:
    return [p.data.tobytes() for p in optimizer.parameters]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


def alone(path: Path) -> bool:
    """Whether nothing lies beside the file."""
    return [*path.parent.iterdir()] == [path]


# What comes back.


@each_rate
def test_every_optimizer_goes_on_bit_for_bit(
    name: str, rate: Callable[[], Any], path: Path
) -> None:
    """Whatever it was constructed with: settings, groups, clips, averages and values are saved."""
    optimizer = rich(name, parameters(), rate())
    train(optimizer, 1, 2, 3)
    optimizer.save(path, parameters=True)
    again = poor(name, blank(optimizer), rate())
    again.load(path)
    again.param_groups.reverse()
    assert identical(in_order(again.state_dict()), in_order(optimizer.state_dict()))
    assert repr(again) == repr(optimizer)
    assert values(again) == values(optimizer)
    for one in (optimizer, again):
        train(one, 4, 5, 6)
    assert identical(in_order(again.state_dict()), in_order(optimizer.state_dict()))
    assert values(again) == values(optimizer)
    assert alone(path)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_goes_on_bit_for_bit(search: str | None, path: Path) -> None:
    def make(value: float) -> tuple[rs.LBFGS, Callable[[], float]]:
        p = rs.Parameter(np.full((2, 3), value).T, "p")
        optimizer = rs.LBFGS(0.01, 3, line_search_fn=search, history_size=4, parameters=[p])

        def closure() -> float:
            p.grad = 4 * p.data**3 - np.arange(6.0).reshape(3, 2)
            return float((p.data**4 - np.arange(6.0).reshape(3, 2) * p.data).sum())

        return optimizer, closure

    optimizer, closure = make(2.0)
    for _ in range(3):
        optimizer.step(closure)
    optimizer.save(path, parameters=True)
    again, same_closure = make(0.0)
    again.load(path)
    assert len(optimizer._progress.curvature.pairs) > 1
    for _ in range(2):
        assert identical(again.state_dict(), optimizer.state_dict())
        assert values(again) == values(optimizer)
        assert again.step(same_closure) == optimizer.step(closure)
    fresh = rs.LBFGS(parameters=[np.zeros(2)])
    fresh.save(path)
    fresh.load(path)


def test_a_state_dict_of_lbfgs_is_copies() -> None:
    p = rs.Parameter(np.ones(3), "p")
    optimizer = rs.LBFGS(0.1, 3, parameters=[p])

    def closure() -> float:
        p.grad = 4 * p.data**3
        return float((p.data**4).sum())

    optimizer.step(closure)
    saved = optimizer.state_dict()
    with nothing_changed(optimizer):
        for value in saved["state"].values():
            if isinstance(value, np.ndarray):
                value[...] = 0


def test_other_readers_have_every_array(path: Path) -> None:
    """Those of the package safetensors, which check the header on their own."""
    optimizer = rich("Adam", parameters(), 0.5)
    train(optimizer, 1, 2)
    optimizer.save(path, parameters=True)
    state_dict = optimizer.state_dict()
    expected = {f"states/{k}": v for k, v in state_dict.items() if isinstance(v, np.ndarray)}
    expected |= {f"parameters/{p.name}": p.data for p in optimizer.parameters}
    assert identical(in_order(load_file(path)), in_order(expected))
    with safe_open(path, "numpy") as opened:
        metadata = opened.metadata()
        assert set(metadata) == {"header_crc32", "roofstep", "settings", "crc32"}
        sums = json.loads(metadata["crc32"])
        assert {k: f"{zlib.crc32(v.tobytes()):08x}" for k, v in expected.items()} == sums
        read = json.loads(metadata["settings"])
        assert read["learning_rate"] == 0.5
        assert {*read} == {k for k in state_dict if f"states/{k}" not in expected}


def test_arrays_are_aligned_for_those_who_map_the_file(path: Path) -> None:
    for text in ("", "x", "xy"):
        arrays = {str(dtype): np.ones(3, dtype) for dtype in reversed(file.NAMES)}
        file.write(str(path), arrays, text)
        raw = path.read_bytes()
        begin = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:begin])
        for name, array in arrays.items():
            assert (begin + header[name]["data_offsets"][0]) % array.itemsize == 0


@pytest.mark.parametrize("dtype", file.NAMES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (7, 5, 3), (2, 3, 1, 9)], ids=str)
@pytest.mark.parametrize("block", [64, 1 << 20])
def test_arrays_of_every_dtype_and_layout(
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    block: int,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Written in C order from any strides, read into any, in one block or in several."""
    monkeypatch.setattr(file, "_BLOCK", block)
    whole = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    layouts = [
        whole,
        np.asfortranarray(whole),
        np.ascontiguousarray(whole.T).T,
        np.flip(np.ascontiguousarray(np.flip(whole))),
        np.repeat(whole, 2, axis=0)[::2] if shape else whole,
        np.broadcast_to(whole[:1], shape) if shape else whole,
    ]
    file.write(str(path), {str(i): a for i, a in enumerate(layouts)}, "text")
    assert identical(in_order(load_file(path)), {str(i): a.copy() for i, a in enumerate(layouts)})
    with file.reading(str(path)) as saved:
        assert saved.settings == "text"
        for i, array in enumerate(layouts):
            into = np.empty_like(array) if i < 5 else np.empty((*shape, 2), dtype)[..., 0]
            saved.tensors[str(i)].read_into(into)
            assert into.tobytes() == array.tobytes()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner)
        | st.dictionaries(st.integers() | st.booleans() | st.tuples(st.floats()), inner)
    ),
)


def unexpected(path: Any, value: Any) -> str:
    raise AssertionError(value)


@given(PLAIN)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    text = plain.dumps(value, unexpected)
    assert identical(plain.loads(text, {}.__getitem__), value)


class Nested:
    """A schedule of a user, with any state."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __call__(self) -> float:
        return 0.5

    def step(self) -> None: ...

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def of_nested(state: Any) -> rs.Optimizer:
    return rs.SGD(Nested(state), [rs.Parameter(np.ones(3), "p")])


def test_the_state_of_a_schedule_comes_back_as_it_was(path: Path) -> None:
    state = {
        "none": None, "flags": (True, 1, 1.0, False, 0, 0.0, -0.0), "pairs": [(0, [1]), ()],
        "numbers": [0.1, 1e300, 5e-324, float("inf"), -float("inf"), float("nan"), 2**70, -1],
        "text": ["", "ä/\"\\\n\0", "states/p"], 3: {None: {(1, 2.0): "x"}, "": {}},
        "arrays": {
            str(dtype): [np.arange(6).reshape(2, 3).astype(dtype).T, dtype.type(1)]
            for dtype in file.NAMES
        },
    }  # fmt: skip
    of_nested(state).save(path)
    again = of_nested(None)
    again.load(path)
    assert identical(again._learning_rate.state, state)
    state["text"].append("more")
    assert len(again._learning_rate.state["text"]) == 3


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (object(), TypeError),
        (1j, TypeError),
        ({1}, TypeError),
        (b"x", TypeError),
        (OrderedDict(), TypeError),
        (np.str_("x"), TypeError),
        (np.array([None]), TypeError),
        (np.arange(3, dtype=">f8"), TypeError),
        (np.ma.masked_array([1.0]), TypeError),
        ("\udc80", ValueError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_no_file_could_give_back_is_refused_by_name(
    value: Any, error: type[Exception], path: Path
) -> None:
    optimizer = of_nested({"best": [0.5, value]})
    with pytest.raises(error, match=r"state_dict\['LR_Scheduler'\]\['best'\]\[1\]: expected "):
        optimizer.save(path)
    assert not path.exists()


def test_a_state_that_is_too_deep_is_refused(path: Path) -> None:
    endless: list[Any] = []
    endless.append({"again": (endless,)})
    deep: list[Any] = [1]
    for _ in range(3000):
        deep = [deep]
    for state in (endless, deep):
        with pytest.raises(
            ValueError, match=r"state_dict\['LR_Scheduler'\]\['x'\]: .* at most 100"
        ):
            of_nested({"x": state}).save(path)
    assert not path.exists()
    lists = "[" * 98 + "]" * 98
    of_nested({"x": json.loads(lists)}).save(path)
    again = of_nested(None)
    again.load(path)
    assert json.dumps(again._learning_rate.state["x"]) == lists


def test_names_that_meet_are_refused(path: Path) -> None:
    optimizer = of_nested({"a": {"b": np.ones(1)}, "a/b": np.ones(1)})
    with pytest.raises(ValueError, match=r"\['a/b'\]: 'others/LR_Scheduler/a/b' is there twice"):
        optimizer.save(path)
    assert not path.exists()


def test_a_header_that_others_could_not_read_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred million bytes are what the package safetensors takes."""
    monkeypatch.setattr(file, "_LONGEST", 100)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        rs.SGD(parameters=parameters()).save(path)
    assert not path.exists()


def test_counts_and_numbers_are_exact(path: Path) -> None:
    def make() -> rs.Optimizer:
        return rs.NAdam(0.1, parameters=[rs.Parameter(np.ones(3), "p")], grad_clip=clip)

    clip = rs.ClipGradByGlobalNorm(float("inf"))
    optimizer = make()
    train(optimizer, 1)
    optimizer._counts[0], optimizer._numbers[0] = 2**62, np.nextafter(0, 1)
    optimizer.save(path)
    again = make()
    again.load(path)
    assert identical(again.state_dict(), optimizer.state_dict())


def test_states_are_saved_that_a_setting_has_asked_for_since(path: Path) -> None:
    """They have no memory yet, and what they begin with."""
    optimizer = rs.Adam(0.1, parameters=parameters())
    train(optimizer, 1)
    for group in optimizer.param_groups:
        group["amsgrad"] = True
    optimizer.save(path)
    again = rs.Adam(0.1, parameters=parameters())
    again.load(path)
    assert identical(in_order(again.state_dict()), in_order(optimizer.state_dict()))
    assert "states/p2_moment2_max_0" in load_file(path)


def test_values_are_taken_over_if_they_are_there_and_wanted(path: Path, tmp_path: Path) -> None:
    optimizer, bare = rich("Adam", parameters(), 0.5), tmp_path / "bare"
    train(optimizer, 1)
    optimizer.save(path, parameters=True)
    optimizer.save(bare)
    for where, wanted, taken in ((path, None, True), (path, True, True), (path, False, False),
                                 (bare, None, False), (bare, False, False)):  # fmt: skip
        again = poor("Adam", blank(optimizer), 0.25)
        again.load(where, parameters=wanted)
        again.param_groups.reverse()
        assert (values(again) == values(optimizer)) is taken
        assert identical(in_order(again.state_dict()), in_order(optimizer.state_dict()))
    with nothing_changed(again), pytest.raises(ValueError, match="'p4' is not among those in the"):
        again.load(bare, parameters=True)


def test_values_are_written_to_where_the_parameters_lie(path: Path) -> None:
    optimizer = rs.SGD(0.5, parameters())
    optimizer.save(path, parameters=True)
    arrays = [p.data for p in blank(optimizer)]
    again = rs.SGD(0.25, [rs.Parameter(a, f"p{i}") for i, a in enumerate(arrays)])
    again.load(path)
    assert [a.tobytes() for a in arrays] == values(optimizer)
    assert all(p.data is a for p, a in zip(again.parameters, arrays, strict=True))


def test_an_optimizer_without_parameters(path: Path) -> None:
    rs.Adam(0.5, 0.25).save(path, parameters=True)
    again = rs.Adam()
    again.load(path, parameters=True)
    assert repr(again) == repr(rs.Adam(0.5, 0.25))


def test_paths_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    optimizer = rs.SGD(0.5, parameters())
    for path in ("here", Path("here"), tmp_path / "ä", "." + "x" * 200):
        optimizer.save(path)
        again = rs.SGD(0.25, parameters())
        again.load(path)
        assert again.get_lr() == 0.5
    for wrong in (3, None, ["here"], b"here"):
        for call in (optimizer.save, optimizer.load):
            with pytest.raises(TypeError, match=r"path: expected a str or an os\.PathLike, got"):
                call(wrong)
    for call in (optimizer.save, optimizer.load):
        with pytest.raises(TypeError, match="parameters: expected True or False, got 1"):
            call("here", 1)
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "no" / "here")
        with pytest.raises(ValueError, match="which is a directory"):
            call(tmp_path)
        for wrong in ("", "here/", "here/.", "no/..", os.sep):
            with pytest.raises(ValueError, match="path: expected a path that ends with the name"):
                call(wrong)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="which is a device, a pipe or"):
            call("pipe")
        os.unlink("pipe")
    with pytest.raises(FileNotFoundError):
        optimizer.load("nowhere")


# What is refused.


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with all there can be."""
    place = tmp_path_factory.mktemp("sound") / "file"
    optimizer = rich("NAdam", parameters(), None)
    train(optimizer, 1, 2)
    optimizer.save(place, parameters=True)
    return place.read_bytes()


@pytest.fixture(scope="module")
def reader() -> rs.Optimizer:
    """What such a file fits."""
    optimizer = poor("NAdam", parameters(), None)
    train(optimizer, 3)
    return optimizer


@contextmanager
def refused(optimizer: rs.Optimizer, pattern: str) -> Iterator[None]:
    """With a message, and without a change."""
    with nothing_changed(optimizer), pytest.raises(ValueError, match=pattern):
        yield


MANY = settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(data=st.data())
def test_a_flipped_bit_is_refused_wherever_it_is(
    data: st.DataObject, sound: bytes, reader: rs.Optimizer, path: Path
) -> None:
    where = st.integers(0, len(sound) - 1) | st.integers(0, 100)
    at, bit = data.draw(where), data.draw(st.integers(0, 7))
    damaged = bytearray(sound)
    damaged[at] ^= 1 << bit
    path.write_bytes(damaged)
    with refused(reader, "path: expected a file that save.. wrote, got "):
        reader.load(path)


@MANY
@given(data=st.data())
def test_a_file_of_another_length_is_refused(
    data: st.DataObject, sound: bytes, reader: rs.Optimizer, path: Path
) -> None:
    cut = data.draw(st.integers(0, len(sound) - 1))
    end = data.draw(st.binary(min_size=1))
    path.write_bytes(sound[:cut])
    with refused(reader, "cut off|another"):
        reader.load(path)
    path.write_bytes(sound + end)
    with refused(reader, f"{len(end)} bytes too many"):
        reader.load(path)


def test_damage_is_named(sound: bytes, reader: rs.Optimizer, path: Path) -> None:
    with_header = 8 + int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8:with_header])
    for name, entry in header.items():
        if name != "__metadata__":
            _, end = entry["data_offsets"]
            damaged = bytearray(sound)
            damaged[with_header + end - 1] ^= 1
            path.write_bytes(damaged)
            with refused(reader, f"one in which '{name}' is damaged: its checksum is "):
                reader.load(path)
            path.write_bytes(sound[: with_header + end - 1])
            with refused(reader, f"one that is cut off within '{name}', after "):
                reader.load(path)
    path.write_bytes(sound)
    reader_of_states = poor("NAdam", parameters(), None)
    reader_of_states.load(path)


def zipped(arrays: dict[str, Any]) -> bytes:
    np.savez(made := io.BytesIO(), **arrays)
    return made.getvalue()


def foreign(path: Path) -> dict[str, tuple[Any, str]]:
    """Files of other kinds, by what writes them, and what is said of them."""
    array = {"a": np.ones(3)}
    other = "another"
    return {
        "empty": (lambda: path.write_bytes(b""), other),
        "short": (lambda: path.write_bytes(b"1234567"), other),
        "text": (lambda: path.write_text("learning_rate = 0.5\n" * 50), other),
        "zeros": (lambda: path.write_bytes(bytes(1000)), other),
        "pickle": (lambda: path.write_bytes(pickle.dumps(array)), other),
        "npz": (lambda: path.write_bytes(zipped(array)), other),
        "json": (lambda: path.write_bytes(bytes([2, *bytes(7)]) + b"[]"), "another program"),
        "deep": (
            lambda: path.write_bytes((10**6).to_bytes(8, "little") + b"[" * 10**6),
            "header is damaged",
        ),
        "safetensors": (lambda: save_file(array, path), "a safetensors file that another program"),
        "of torch": (
            lambda: save_file(array, path, {"format": "pt"}), "a safetensors file that another"
        ),
        "of the future": (
            lambda: save_file(array, path, {"roofstep": "2"}), "one of version '2', where this"
        ),
        "without the rest": (
            lambda: save_file(array, path, {"roofstep": "1"}), "header is damaged or written"
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", foreign(Path()))
def test_another_file_is_refused(kind: str, reader: rs.Optimizer, path: Path) -> None:
    write, pattern = foreign(path)[kind]
    write()
    with refused(reader, f"{pattern}.*; nothing was changed"):
        reader.load(path)


def test_a_file_that_was_written_anew_is_refused(
    sound: bytes, reader: rs.Optimizer, path: Path
) -> None:
    """By a tool that has changed an array and kept the metadata, say."""
    path.write_bytes(sound)
    with safe_open(path, "numpy") as opened:
        metadata = opened.metadata()
    arrays = load_file(path)
    save_file({**arrays, "parameters/p0": arrays["parameters/p0"] + 1}, path, metadata)
    with refused(reader, "written anew"):
        reader.load(path)


NO_SETTINGS = [
    "", "3", "[]", "{}", '["list"]', '{"param_groups": NaN}', '{"param_groups": ["array", "x"]}',
    '{"param_groups": ["list", []]}', '["dict", ["param_groups"]]', '["dict", [["list"], 3]]',
    '{"param_groups": ["other", 3]}', '{"param_groups": ["float", "x"]}', "[" * 10**5,
    '{"param_groups": ' + '{"x": ' * 900 + "3" + "}" * 901,
]  # fmt: skip


@pytest.mark.parametrize("text", NO_SETTINGS, ids=lambda text: text[:40])
def test_settings_that_were_never_written_are_refused(
    text: str, reader: rs.Optimizer, path: Path
) -> None:
    file.write(str(path), {}, text)
    with refused(reader, "settings that save.. never wrote|does not fit"):
        reader.load(path)


HOSTILE: list[tuple[str, Any, str]] = [
    ("dtype", "F4", "damaged"), ("dtype", None, "damaged"), ("dtype", [], "damaged"),
    ("shape", 3, "damaged"), ("shape", [True], "damaged"), ("shape", [-1], "damaged"),
    ("shape", [1.0], "damaged"), ("shape", [10**30], "damaged|cut off"),
    ("data_offsets", [0, 10**30], "damaged"), ("data_offsets", [8, 0], "damaged"),
    ("more", 1, "damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "pattern"), HOSTILE, ids=str)
def test_a_header_that_was_never_written_is_refused(
    key: str, value: Any, pattern: str, reader: rs.Optimizer, path: Path
) -> None:
    """Also one whose checksum is that of the header."""
    file.write(str(path), {"a": np.ones(1)}, "{}")
    raw = path.read_bytes()
    length = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:length])
    header["a"][key] = value
    header["__metadata__"]["header_crc32"] = zeros = "0" * 8
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)
    start = len(packed).to_bytes(8, "little") + packed
    own = f"{zlib.crc32(start):08x}"
    path.write_bytes(start.replace(zeros.encode(), own.encode(), 1) + raw[length:])
    with refused(reader, pattern):
        reader.load(path)


def test_all_that_does_not_fit_is_listed(path: Path) -> None:
    optimizer = rs.Adam(0.5, parameters=parameters())
    train(optimizer, 1)
    optimizer.save(path, parameters=True)
    others = [rs.Parameter(p.data.astype("f8"), p.name) for p in parameters()[:4]]
    others[1].data = np.zeros(7)
    others.append(rs.Parameter(np.zeros(2), "new"))
    other = rs.AdamW(parameters=others)
    with nothing_changed(other), pytest.raises(ValueError) as caught:
        other.load(path)
    message = str(caught.value)
    assert message.startswith(f"{str(path)!r} does not fit this optimizer, and nothing was changed")
    for part in (
        "parameter 'new' is not among those in the file",
        "parameter 'p4' is in the file, and not in this optimizer",
        "parameter 'p0' is float32 of shape (3, 4) in the file, expected float64 of shape (3, 4)",
        "parameter 'p1' is float64 of shape (4, 5) in the file, expected float64 of shape (7,)",
        "'p2_moment1_0' is float32 of shape (3, 4, 2), expected float64 of shape (3, 4, 2)",
        "'p4_step_0' belongs to no parameter",
        "'param_groups'[0] holds",
    ):
        assert part in message


# What fails on the way.


class Call:
    """A function that fails the n-th time."""

    def __init__(self, function: Callable[..., Any], nth: int, error: BaseException) -> None:
        self.function, self.left, self.error = function, nth, error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if not self.left:
            raise self.error
        return self.function(*args, **kwargs)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
SAVING = [
    (builtins, "open", 1, FULL),
    (os, "stat", 1, PermissionError(errno.EACCES, "no")),
    (os, "scandir", 1, PermissionError(errno.EACCES, "no")),
    (os, "fsync", 1, FULL),
    (os, "chmod", 1, PermissionError(errno.EPERM, "no")),
    (os, "replace", 1, PermissionError(errno.EACCES, "no")),
    (zlib, "crc32", 1, KeyboardInterrupt()),
    (zlib, "crc32", 4, MemoryError()),
    (zlib, "crc32", 20, KeyboardInterrupt()),
    (os, "replace", 1, KeyboardInterrupt()),
]


@pytest.mark.parametrize(("module", "name", "nth", "error"), SAVING, ids=str)
def test_a_save_that_fails_leaves_the_old_file(
    module: Any,
    name: str,
    nth: int,
    error: BaseException,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimizer = rich("Adam", parameters(), 0.5)
    optimizer.save(path)
    before = path.read_bytes()
    train(optimizer, 1)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, Call(getattr(module, name), nth, error))
        with pytest.raises(type(error)) as caught:
            optimizer.save(path, parameters=True)
    assert alone(path)
    assert path.read_bytes() == before
    if isinstance(error, OSError):
        assert caught.value.errno == error.errno
        assert "nothing was saved, and what is there is as before" in str(caught.value)
        assert str(path) in str(caught.value)
    optimizer.save(path, parameters=True)
    again = poor("Adam", blank(optimizer), 0.25)
    again.load(path, parameters=True)


def test_a_file_is_on_the_disk_before_it_has_its_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []

    def sync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        is_directory = stat.S_ISDIR(found.st_mode)
        events.append(is_directory or os.pread(descriptor, found.st_size, 0))

    def take_place(source: str, target: str) -> None:
        events.append(target)
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", take_place)
    optimizer = rich("Adam", parameters(), 0.5)
    train(optimizer, 1)
    optimizer.save(path)
    assert events == [path.read_bytes(), str(path), True]


def test_a_directory_that_cannot_be_synced_is_told_of(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where a file system has no such thing."""
    other = path.with_name("other")
    optimizer = rs.SGD(0.5, parameters())
    for code, is_told in ((errno.EIO, True), (errno.EINVAL, False)):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", Call(os.fsync, 2, OSError(code, "directory")))
            if is_told:
                in_place = (
                    "; the new file is in place, but perhaps not on the disk: '.*safetensors'"
                )
                with pytest.raises(OSError, match=in_place) as caught:
                    optimizer.save(path)
                assert caught.value.errno == code
                os.replace(path, other)
            else:
                optimizer.save(path)
        assert path.exists() != is_told
    assert other.read_bytes() == path.read_bytes()
    other.unlink()
    assert alone(path)


FILLS = """
import sys
sys.path.insert(0, {tests!r})
import killed
path = killed.Path(sys.argv[1])
optimizer = killed.optimizer()
optimizer.step()
{limit}
try:
    optimizer.save(path, parameters=True)
except OSError as error:
    assert "what is there is as before" in str(error), error
    print(error.errno, flush=True)
"""
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, -1))"


def run_filling(path: Path, limit: str = "") -> subprocess.CompletedProcess[str]:
    code = FILLS.format(tests=str(TOP / "tests"), limit=limit)
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=TOP
    )


def test_a_file_that_may_not_grow_leaves_the_old_one(path: Path) -> None:
    path.write_text("old")
    run = run_filling(path, LIMIT)
    assert (run.stdout, run.stderr) == (f"{errno.EFBIG}\n", "")
    assert alone(path)
    assert path.read_text() == "old"


CAN_MOUNT = subprocess.run(
    ["unshare", "-rm", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True
).returncode  # fmt: skip


@pytest.mark.skipif(bool(CAN_MOUNT), reason="no file system may be mounted here")
@pytest.mark.parametrize("size", [1, 8, 15])
def test_a_full_disk_leaves_the_old_file(size: int, tmp_path: Path) -> None:
    """Of so many megabytes, where the file has 17."""
    code = FILLS.format(tests=str(TOP / "tests"), limit="")
    script = (
        f"mount -t tmpfs -o size={size}m x {tmp_path} && cd {tmp_path} && echo old > file && "
        f"{sys.executable} -c \"$0\" {tmp_path}/file && cat file && ls -A"
    )  # fmt: skip
    run = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, code],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(TOP)},
    )  # fmt: skip
    assert (run.stdout, run.stderr) == (f"{errno.ENOSPC}\nold\nfile\n", "")


def test_a_killed_process_leaves_a_whole_file(path: Path) -> None:
    """Killed at random moments, most of them within a save; what it leaves is cleared away."""
    _, interrupted = killed.kill(path, 20, seed=1)
    assert interrupted
    killed.optimizer().save(path)
    assert alone(path)


def test_two_processes_may_save_to_one_path(path: Path) -> None:
    processes = [killed.saver(path), killed.saver(path)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "saved\n"
        seen = {killed.steps_in(path) for _ in range(15)}
        assert [process.poll() for process in processes] == [None, None]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert len(seen) > 1
    assert len(killed.left_over(path)) <= 2
    killed.optimizer().save(path)
    assert alone(path)


def test_a_name_may_be_as_long_as_names_may_be(tmp_path: Path) -> None:
    """What is written beside it has a longer one, which is cut; what was left is cleared away."""
    optimizer = rs.SGD(0.25, parameters())
    for name in ("n" * 255, "n" * 240, "é" * 127):
        path = tmp_path / name
        dead = tmp_path / f".{replace._cut(name)}.0123456789abcdef.tmp"
        dead.touch()
        optimizer.save(path)
        rs.SGD(0.5, parameters()).load(path)
        assert alone(path)
        path.unlink()
    with pytest.raises(OSError, match=r"nothing was saved.*: 'n+'$") as caught:
        optimizer.save("n" * 256)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_only_what_nobody_writes_to_any_more_is_cleared_away(tmp_path: Path) -> None:
    path, digits = tmp_path / "a.b", "0123456789abcdef"
    dead = tmp_path / f".a.b.{digits}.tmp"
    others = [tmp_path / name for name in (
        f".axb.{digits}.tmp", f".a.b.{digits}0.tmp", f".a.b.{digits}.tmp2", f"a.b.{digits}.tmp",
    )]  # fmt: skip
    for one in (dead, *others):
        one.touch()
    optimizer = rs.SGD(0.5, parameters())
    with replace.replacing(str(path)) as living:
        optimizer.save(path)
        assert not dead.exists()
        assert len([*tmp_path.iterdir()]) == len(others) + 2
        living.write(b"the last one")
    assert path.read_bytes() == b"the last one"
    assert {*tmp_path.iterdir()} == {path, *others}


def test_a_file_that_was_cleared_before_it_was_locked_is_made_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, cleared = replace.fcntl.flock, []

    def clear_first(opened: Any, how: int) -> None:
        if not cleared:
            cleared.extend(path.parent.iterdir())
            cleared[0].unlink()
        flock(opened, how)

    monkeypatch.setattr(replace.fcntl, "flock", clear_first)
    rs.SGD(0.5, parameters()).save(path)
    assert len(cleared) == 1
    assert alone(path)


def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cleared away there, as nobody can say who is alive."""
    dead = path.with_name(f".{path.name}.{'0' * 16}.tmp")
    dead.touch()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(replace.fcntl, "flock", refuse)
    rs.SGD(0.5, parameters()).save(path)
    rs.SGD(0.25, parameters()).load(path)
    assert {*path.parent.iterdir()} == {path, dead}


def test_modes_and_links_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to("real")
    optimizer = rs.SGD(0.5, parameters())
    before = os.umask(0o027)
    try:
        optimizer.save(link)
    finally:
        os.umask(before)
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    real.chmod(0o604)
    optimizer.save(link)
    assert stat.S_IMODE(real.stat().st_mode) == 0o604
    assert link.is_symlink()
    assert not real.is_symlink()


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("nth", [1, 2, 20, None])
def test_a_load_that_fails_changes_nothing(
    nth: int | None,
    error: type[BaseException],
    sound: bytes,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path.write_bytes(sound)
    optimizer = poor("NAdam", parameters(), None)
    train(optimizer, 3)
    last = sound.count(b'"data_offsets"')
    failing = Call(file.Stored.read_into, nth or last, error("on the way"))
    with nothing_changed(optimizer), monkeypatch.context() as patch:
        patch.setattr(file.Stored, "read_into", lambda *args: failing(*args))
        with pytest.raises(error, match="on the way"):
            optimizer.load(path, parameters=True)
    optimizer.load(path, parameters=True)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_schedule_that_refuses_leaves_all_as_it_was(
    error: type[BaseException], path: Path
) -> None:
    """One of another library looks at its state when it has taken over a part of it."""
    optimizer = rs.SGD(InPlace(), [rs.Parameter(np.ones(3), "p")])
    optimizer.average_weights()
    train(optimizer, 1)
    optimizer.save(path, parameters=True)
    schedule = InPlace()
    schedule.step()
    other = rs.SGD(schedule, [rs.Parameter(np.ones(3), "p")])
    train(other, 2, 3)
    for again in (False, True):
        InPlace.errors += [error("of another library"), *([KeyError("again")] if again else [])]
        with nothing_changed(other), pytest.raises(error, match="of another library"):
            other.load(path)
        assert not InPlace.errors


class InPlace:
    """A schedule that gives its very list, writes into it, and then may refuse."""

    errors: ClassVar[list[BaseException]] = []

    def __init__(self) -> None:
        self.counts = [0]

    def __call__(self) -> float:
        return 0.5

    def step(self) -> None:
        self.counts[0] += 1

    def state_dict(self) -> Any:
        return {"counts": self.counts}

    def load_state_dict(self, state: Any) -> None:
        self.counts[:] = state["counts"]
        if self.errors:
            raise self.errors.pop(0)


def test_parameters_that_overlap_are_refused(path: Path) -> None:
    optimizer = rs.SGD(0.5, [rs.Parameter(np.ones(4), "a"), rs.Parameter(np.ones(4), "b")])
    optimizer.save(path, parameters=True)
    memory_of_both = np.zeros(6)
    arrays = {"a": memory_of_both[:4], "b": memory_of_both[2:]}
    other = rs.SGD(0.5, [rs.Parameter(array, name) for name, array in arrays.items()])
    with nothing_changed(other), pytest.raises(ValueError, match="overlap"):
        other.load(path)
    other.load(path, parameters=False)


def test_a_save_beside_a_step_is_refused(path: Path) -> None:
    optimizer = rs.Momentum(2**-20, 0.5, [large()])
    optimizer.save(path, parameters=True)
    thread, messages = Stepping(optimizer), []
    with running(thread):
        while len(messages) < 3 and thread.is_alive():
            try:
                optimizer.save(path, parameters=True)
            except RuntimeError as error:
                messages.append(str(error))
    assert "another thread" in messages[-1]
    assert thread.steps
    again = rs.Momentum(parameters=[large(0.0)])
    again.load(path)  # of one moment
    assert (again.parameters[0].data == again.parameters[0].data[0]).all()
    optimizer.average_weights()
    optimizer.step()
    with optimizer.averaged():
        for call in (optimizer.save, optimizer.load):
            with pytest.raises(RuntimeError, match=r"leave the block of averaged\(\)"):
                call(path)


def test_what_is_written_meanwhile_does_no_harm(path: Path) -> None:
    """To parameters, by whom nobody can refuse: the sums are those of what is in the file."""
    optimizer = rs.SGD(0.5, [rs.Parameter(np.zeros(1 << 22), "p")])
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            optimizer.parameters[0].data += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            time.sleep(0.01)
            optimizer.save(path, parameters=True)
            rs.SGD(0.5, blank(optimizer)).load(path)
    finally:
        over.set()
        thread.join()


# What it takes.

MEMORY = """
import sys
import numpy as np
import roofstep
from bench import memory

path, order, what = sys.argv[1:]
def make():
    arrays = [np.ones((1024, 2048), "f4", order=order) for _ in range(4)]  # 8 MB each
    return roofstep.Adam(parameters=[roofstep.Parameter(a, f"p{i}") for i, a in enumerate(arrays)])

optimizer = make()
for p in optimizer.parameters:
    p.grad = np.ones_like(p.data)
optimizer.step()
optimizer.save(path, parameters=True)
if what == "load":
    fresh = [make() for _ in range(2)]
    fresh.pop().load(path, parameters=False)
    print(memory.rise(lambda: fresh[0].load(path, parameters=False)))
else:
    print(memory.rise(lambda: optimizer.save(path, parameters=True)))
"""


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="only Linux tells the peak")
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize(("what", "most"), [("save", 4 << 20), ("load", (64 << 20) + (4 << 20))])
def test_no_copy_of_the_states_is_made(order: str, what: str, most: int, path: Path) -> None:
    """Of 64 MB, beside 32 of the parameters; a load makes the states themselves."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), order, what],
        cwd=TOP, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(run.stdout) < most
    assert what == "save" or int(run.stdout) > 60 << 20


class Terminal(io.StringIO):
    """What a bar is shown on."""

    def isatty(self) -> bool:
        return True


def test_a_bar_is_shown_of_large_files_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = rich("Adam", parameters(), 0.5)
    train(optimizer, 1)
    shown: dict[tuple[Any, Any, bool], str] = {}
    for size, screen, has_tqdm in (
        (1 << 30, Terminal(), True), (0, Terminal(), True), (0, io.StringIO(), True),
        (0, Terminal(), False),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(file, "_LARGE", size)
            patch.setattr(sys, "stderr", screen)
            if not has_tqdm:
                patch.setitem(sys.modules, "tqdm", None)
            optimizer.save(path, parameters=True)
            poor("Adam", parameters(), 0.5).load(path)
        shown[size, type(screen), has_tqdm] = screen.getvalue()
    bar = shown.pop((0, Terminal, True))
    assert re.search(r"save: 100%.*\n.*load: 100%.*\n$", bar)
    assert {*shown.values()} == {""}
    assert file._LARGE == 1 << 30


def test_no_optimizer_is_left_out() -> None:
    assert {*OPTIMIZERS, "LBFGS"} == {
        name for name in rs.__all__
        if isinstance(found := getattr(rs, name), type) and issubclass(found, rs.Optimizer)
    } - {"Optimizer"}  # fmt: skip
