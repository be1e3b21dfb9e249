"""Files that a checkpoint could have become, against their reader: a target for libFuzzer.

A file is loaded, and steps go on from it, or it is refused with a ValueError and nothing changed;
and no memory is taken for what a header only says is there. What the mutator makes of a file is a
file, mostly: its checksums are made anew, so that what was changed gets past them.
"""

from __future__ import annotations

import copy
import json
import os
import random
import sys
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["roofstep.checkpoint", "roofstep.checks"]):
    import numpy as np

    import roofstep as rs
    from roofstep import checkpoint, lr
    from roofstep.checkpoint import file

MOST = 4 << 20  # bytes that a load of these files, all below 64 KB, may take
LONGEST = 1 << 16
HERE = Path(os.environ["ROOFSTEP_FUZZ_FILES"])
assert checkpoint


def parameters() -> list[rs.Parameter]:
    """Small ones of several shapes, dtypes and layouts."""
    arrays = [np.ones((2, 3), "f4"), np.ones((3, 2), "f8").T, np.ones((), "f4"), np.ones(0, "f4")]
    return [rs.Parameter(array, f"p{i}") for i, array in enumerate(arrays)]


def _groups() -> list[dict[str, Any]]:
    first, *rest = parameters()
    return [{"params": [first], "learning_rate": 0.5}, {"params": rest}]


MAKERS = [
    lambda: rs.SGD(0.5, parameters()),
    lambda: rs.Adam(lr.StepDecay(0.5, 2), parameters=_groups(), amsgrad=True),
    lambda: rs.NAdam(0.5, parameters=parameters(), grad_clip=rs.ClipGradByGlobalNorm(0.5)),
    lambda: rs.ASGD(0.5, 3, parameters()),
    lambda: rs.Momentum(
        lr.LinearWarmup(lr.ReduceOnPlateau(0.5), 2, 0.0, 0.5),
        parameters=_groups(),
        weight_decay=rs.L1Decay(0.5),
        skip_nonfinite=True,
    ),
    lambda: rs.LBFGS(0.5, 2, parameters=parameters(), history_size=2),
]


def step(optimizer: rs.Optimizer, seed: int) -> None:
    """Another one of some gradients."""
    rng = np.random.default_rng(seed)

    def closure() -> float:
        for p in optimizer.parameters:
            p.grad = rng.standard_normal(p.data.shape).astype(p.data.dtype)
        return 1.0

    if isinstance(optimizer, rs.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def is_sealed(raw: bytes) -> bool:
    """Whether all checksums are right and the arrays end with the file, by other ways than ours."""
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])
    metadata = header.pop("__metadata__")
    sums = json.loads(metadata["crc32"])
    said = metadata["header_crc32"].encode()
    ends = [begin]
    for name, entry in header.items():
        start, end = (begin + offset for offset in entry["data_offsets"])
        if zlib.crc32(raw[start:end]) != int(sums.pop(name), 16):
            return False
        ends.append(end)
    blank = raw[:begin].replace(said, b"0" * 8, 1)
    return not sums and max(ends) == len(raw) and zlib.crc32(blank) == int(said, 16)


def seeds() -> list[bytes]:
    """A byte that says whose it is, and a file: of each optimizer, young and old."""
    found = []
    for which, make in enumerate(MAKERS):
        optimizer = make()
        if which == 3:
            optimizer.average_weights()
        for steps in range(3):
            optimizer.save(HERE / "seed", parameters=steps == 2)
            found.append(bytes([which]) + (HERE / "seed").read_bytes())
            step(optimizer, steps)
    return found


def parts(raw: bytes) -> tuple[Any, bytes] | None:
    """The header and the rest, if it has one."""
    length = int.from_bytes(raw[:8], "little")
    try:
        header = json.loads(raw[8 : 8 + length])
    except (ValueError, RecursionError):
        return None
    whole = isinstance(header, dict) and isinstance(header.get("__metadata__"), dict)
    return (header, raw[8 + length :]) if whole else None


def sealed(header: Any, rest: bytes, random_: random.Random) -> bytes:
    """The file with checksums that are right; offsets too, mostly."""
    metadata, at = header["__metadata__"], 0
    try:
        sums = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            kind = file._kind(entry)
            size = file._bytes(kind)
            if random_.random() < 0.95:
                entry["data_offsets"] = [at, at + size]
            if at + size < LONGEST:
                rest += bytes(max(0, at + size - len(rest)))
            sums[name] = f"{zlib.crc32(rest[at : at + size]):08x}"
            at += size
        if random_.random() < 0.95:
            rest = rest[:at]
        metadata["crc32"] = json.dumps(sums)
        metadata.pop("header_crc32", None)
        header["__metadata__"] = {"header_crc32": "0" * 8, **metadata}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
        text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = bytearray(len(text).to_bytes(8, "little") + text)
    at = start.find(b'"header_crc32":"00000000"')
    if at > 0:
        start[at + 16 : at + 24] = f"{zlib.crc32(start):08x}".encode()
    return bytes(start) + rest


ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**53, 2**60, 2**62, 2**63 - 1, 2**63, 2**64, 10**400, 0.0,
    -0.0, 0.5, 1e308, "", "x", "float32", "F64", "BF16", "\0", "ä" * 50, [], {}, ["list"],
    ["float", "nan"], ["float", "inf"], ["float", "x"], ["tuple", 1], ["dict", [["list"], 1]],
    ["dict", ["x", 1]], ["array", "others/x"], ["scalar", "states/p0_step_0"],
    ["array", "states/p0_step_0"], [0, 2**60], [2**60, 2**62], [2**40, 0], [-1], [1] * 40,
    [0] * 70, {"class": "L2Decay"}, {"class": "ClipGradByNorm", "clip_norm": ["float", "nan"]},
]  # fmt: skip


def _places(value: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    """Where in plain data something may be put."""
    if depth > 50 or not isinstance(value, (dict, list)):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    inner = [place for key in keys for place in _places(value[key], depth + 1)]
    return [(value, key) for key in keys] + inner


def _change(plain: Any, random_: random.Random) -> None:
    """Something in plain data, in its place."""
    places = _places(plain)
    if not places:
        return
    holder, key = random_.choice(places)
    how = random_.randrange(7)
    if how == 0:
        holder[key] = copy.deepcopy(random_.choice(ODD))
    elif how == 1:
        other, there = random_.choice(places)
        holder[key] = copy.deepcopy(other[there]) if len(places) < 2000 else None
    elif how == 2:
        del holder[key]
    elif how == 3 and isinstance(holder, dict):
        holder[random_.choice([*map(str, range(3)), "states/p0_x_0", "p0", "", key + "x"])] = (
            holder[key]
        )
    elif how == 4:
        nested: Any = holder[key]
        for _ in range(random_.choice([1, 2, 20, 900, 5000])):
            nested = ["list", nested] if random_.random() < 0.9 else {"x": nested}
        holder[key] = nested
    elif isinstance(holder[key], list):
        holder[key].reverse()  # a shape of as many elements
    elif isinstance(holder[key], bool):
        holder[key] = not holder[key]
    elif isinstance(holder[key], (int, float)):
        number = random_.choice([-1, 1, 2, 0.5, 2**31, 2**60, 1e300])
        holder[key] = holder[key] + number if random_.random() < 0.5 else holder[key] * number
    elif isinstance(holder[key], str):
        at = random_.randrange(len(holder[key]) + 1)
        holder[key] = (
            holder[key][:at] + random_.choice(["", "x", "_0", "/", "\0"]) + holder[key][at + 1 :]
        )


def mutate(raw: bytes, most: int, seed: int) -> bytes:
    """Another file: its header or its settings changed and sealed again, or its bytes."""
    random_ = random.Random(seed)
    found = parts(raw[1:])
    if found is None or random_.random() < 0.2:
        return atheris.Mutate(raw, min(most, LONGEST))
    header, rest = found
    which = raw[0]
    if rest and random_.random() < 0.1:  # of which the checksums must tell
        return raw[: -len(rest)] + atheris.Mutate(rest, max(1, most - len(raw)))
    try:
        for _ in range(random_.choice([1, 1, 1, 2, 3])):
            how = random_.randrange(11)
            settings = header["__metadata__"].get("settings")
            if how < 5 and isinstance(settings, str):
                plain = [json.loads(settings)]
                _change(plain, random_)
                header["__metadata__"]["settings"] = json.dumps(
                    plain[0] if plain else 0, ensure_ascii=False
                )
            elif how < 8:
                _change(header, random_)
            elif how == 8 and isinstance(settings, str):
                depth = random_.choice([1, 100, 3000])  # as text: json writes nothing so deep
                header["__metadata__"]["settings"] = "[" * depth + settings + "]" * depth
            elif how == 9 and rest:
                rest = atheris.Mutate(rest, min(len(rest), most))
            else:
                which = random_.randrange(len(MAKERS))
            if not isinstance(header.get("__metadata__"), dict):
                break
    except (AttributeError, OverflowError, RecursionError, TypeError, ValueError):
        return atheris.Mutate(raw, min(most, LONGEST))
    try:
        if isinstance(header.get("__metadata__"), dict) and random_.random() < 0.9:
            made = sealed(header, rest, random_)
        else:
            text = json.dumps(header).encode()
            depth = random_.choice([0, 0, 100, 3000])
            text = b'{"x":' + b"[" * depth + b"]" * depth + b"," + text[1:] if depth else text
            made = len(text).to_bytes(8, "little") + text + rest
    except (RecursionError, ValueError):
        return raw
    if random_.random() < 0.05:
        made = made[: random_.randrange(len(made) + 1)]
    return (bytes([which]) + made)[:most]


def state_of(optimizer: rs.Optimizer) -> str:
    """All that a load may change, in every bit."""
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        schedule = optimizer._learning_rate
        own = schedule.state_dict() if isinstance(schedule, lr.LRScheduler) else schedule
        arrays = [
            (k, v.tobytes()) for k, v in optimizer._save().items() if isinstance(v, np.ndarray)
        ]
        return repr((
            arrays, repr(optimizer), own, optimizer.param_groups, optimizer.skipped_steps,
            [p.data.tobytes() for p in optimizer.parameters],
        ))  # fmt: skip


def one_input(raw: bytes) -> None:
    """One file."""
    if not raw:
        return
    path = HERE / "fuzzed"
    path.write_bytes(raw[1:])
    optimizer = MAKERS[raw[0] % len(MAKERS)]()
    step(optimizer, 7)
    before = state_of(optimizer)
    tracemalloc.start()
    try:
        optimizer.load(path)
    except ValueError:
        after = state_of(optimizer)
        assert after == before, f"refused, and yet changed from {before} to {after}"
        return
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MOST + 100 * len(raw), f"{peak} bytes for a file of {len(raw)}"
    assert is_sealed(raw[1:]), "loaded, and yet damaged"
    header, _ = parts(raw[1:]) or ({}, b"")
    for name, array in optimizer._save().items():
        said = header.get("states/" + name, {}).get("shape")
        assert said is None or said == [*array.shape], f"{name} loaded in another shape"
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            step(optimizer, 8)
        except ValueError as error:  # of a setting that no step can use, as of one that was set
            if ": expected " not in str(error):
                raise
        state_of(optimizer)
        optimizer.save(HERE / "again", parameters=True)
        MAKERS[raw[0] % len(MAKERS)]().load(HERE / "again")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--seeds"]:
        for i, one in enumerate(seeds()):
            (Path(sys.argv[2]) / f"seed-{i}").write_bytes(one)
        sys.exit()
    atheris.Setup(sys.argv, one_input, custom_mutator=mutate)
    atheris.Fuzz()
