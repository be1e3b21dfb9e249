"""What the compilers made of the kernels: packed inner loops, and no symbol shared between ISAs."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import Build
from roofstep import _core

VARIANTS = 2 * 3 * 2  # dtypes, coupled decays, decoupled or not
TRUSTING = ("lars", "lamb")  # rules with a second loop, that of their trust ratio

# Arithmetic of a full-width register, and of a single element, by ISA and dtype.
PACKED = {
    "baseline": r"\b(add|sub|mul|div|sqrt)p{d}\b.*%xmm",
    "avx2": r"\bv(add|sub|mul|div|sqrt)p{d}\b.*%ymm",
    "avx512": r"\bv(add|sub|mul|div|sqrt)p{d}\b.*%zmm",
    "neon": r"\bf(add|sub|mul|div|sqrt)\s+v\d+\.{d}\b",
}
SCALAR = {
    "baseline": r"\b(add|sub|mul|div|sqrt)s[sd]\b",
    "avx2": r"\bv(add|sub|mul|div|sqrt)s[sd]\b",
    "avx512": r"\bv(add|sub|mul|div|sqrt)s[sd]\b",
    "neon": r"\bf(add|sub|mul|div|sqrt)\s+[sd]\d+\b",
}
JUMP = re.compile(
    r"^\s*([0-9a-f]+):\s+(?:j\w+|b\.?\w*|cbn?z\s+\w+,|tbn?z\s+[^<]*,)\s+([0-9a-f]+) <"
)
FUSED = re.compile(r"\bvf(n?m)(add|sub)|\bfn?m(add|sub|la|ls)\b")


def functions(build: Build, objects: Path) -> dict[str, list[str]]:
    """The disassembled instructions of every function, by demangled name."""
    text = build.tool("objdump", "-d", "-C", "--no-show-raw-insn", objects)
    found: dict[str, list[str]] = {}
    for block in text.split("\n\n"):
        head, *lines = block.strip().splitlines()
        if name := re.match(r"[0-9a-f]+ <(.*)>:", head):
            found[name[1]] = lines
    return found


def loops(lines: list[str]) -> list[list[str]]:
    """The instructions between the target of each backward jump and the jump."""
    place = {line.split(":")[0].strip(): i for i, line in enumerate(lines)}
    found = []
    for i, line in enumerate(lines):
        if (jump := JUMP.match(line)) and place.get(jump[2], len(lines)) <= i:
            found.append(lines[place[jump[2]] : i + 1])
    return found


def packed_arithmetic(isa: str, name: str) -> re.Pattern[str]:
    """For a name that begins with float or double."""
    double = name.startswith("double")
    widths = ("4s", "2d") if isa == "neon" else ("s", "d")
    return re.compile(PACKED[isa].format(d=widths[double]))


def test_inner_loops_are_packed(build: Build) -> None:
    """Else a compiler that gives up would cost a factor of eight, and nobody would be told."""
    for isa in build.isas:
        kernels = {
            name: lines
            for name, lines in functions(build, build.kernels(isa)).items()
            if f"{isa}::loop<" in name
        }
        assert len(kernels) == (len(_core.rules()) + len(TRUSTING)) * VARIANTS
        for name, lines in kernels.items():
            packed = packed_arithmetic(isa, re.search(r"float|double", name)[0])
            scalar = re.compile(SCALAR[isa])
            assert any(
                any(map(packed.search, body)) and not any(map(scalar.search, body))
                for body in loops(lines)
            ), f"{isa}: {name} has no packed loop"


def test_norm_and_mean_are_packed(build: Build) -> None:
    """The 64 lanes of a sum of squares live in full-width registers."""
    for isa in build.isas:
        sums = {
            name: lines
            for name, lines in functions(build, build.kernels(isa)).items()
            if re.search(rf"{isa}::(sum_blocks?|average)<", name)
        }
        assert len({name.split(" [clone")[0] for name in sums}) == 3 + 2 + 2
        for name, lines in sums.items():
            packed = packed_arithmetic(isa, name.split("<")[1])
            assert any(any(map(packed.search, body)) for body in loops(lines)), f"{isa}: {name}"


def test_streaming_loops_are_packed(build: Build) -> None:
    """A scalar one would be a low roof, and every share of it a lie."""
    for isa in build.isas:
        packed = packed_arithmetic(isa, "float")
        streams = {
            name: lines
            for name, lines in functions(build, build.kernels(isa)).items()
            if f"{isa}::stream_of<" in name
        }
        assert len(streams) == 7 * 5
        for name, lines in streams.items():
            if ", 0ul>" not in name:  # nothing is read only: that is the roof of no update
                assert any(any(map(packed.search, body)) for body in loops(lines)), f"{isa}: {name}"


def test_nothing_is_fused(build: Build) -> None:
    """A fused multiply-add rounds once where the promise says twice: in kernels and engine."""
    engine = build.folder.glob("CMakeFiles/engine.dir/**/*.o")
    objects = [*engine, *map(build.kernels, build.isas)]
    assert len(objects) == 4 + len(build.isas)
    for path in objects:
        for name, lines in functions(build, path).items():
            assert not any(map(FUSED.search, lines)), f"{path.name}: {name}"


def test_no_symbol_leaves_its_isa(build: Build) -> None:
    """Of two functions of one name the linker keeps one, perhaps the one for a better CPU."""
    for isa in build.isas:
        symbols = build.tool("nm", "-C", "--defined-only", build.kernels(isa)).splitlines()
        named = [line.split(maxsplit=2)[1:] for line in symbols]
        shared = [name for kind, name in named if kind not in "tTrdb" or kind == "T"]
        assert shared
        assert all(f"roofstep::{isa}::" in name for name in shared), shared
