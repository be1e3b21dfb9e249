"""What the wheel and the sdist are made of, and what the wheel's libraries need of a system."""

from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from packaging.utils import parse_wheel_filename

from conftest import SOURCE

RUNTIME = "roofstep/libs/libgomp.so.1"
PACKAGED = {".py", ".pyi", ".typed", ".pxd", ".h"}
NOT_IN_SDIST = (".ci/", ".github/")


@pytest.fixture(scope="session")
def libraries(wheel: Path) -> dict[str, ELFFile]:
    """The ELF files of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    return {
        name: ELFFile(BytesIO(content))
        for name, content in contents.items()
        if content.startswith(b"\x7fELF")
    }


def dynamic(library: ELFFile, tag: str) -> list[str]:
    """The strings that its dynamic section has for a tag such as DT_NEEDED."""
    attribute = tag.removeprefix("DT_").lower()
    return [
        getattr(entry, attribute)
        for section in library.iter_sections()
        if isinstance(section, DynamicSection)
        for entry in section.iter_tags(tag)
    ]


def needed_versions(library: ELFFile, prefix: str) -> Iterator[tuple[int, ...]]:
    """Of the versions of symbols that it needs of others, those with a name such as GLIBC."""
    for section in library.iter_sections():
        if isinstance(section, GNUVerNeedSection):
            for _, versions in section.iter_versions():
                for version in versions:
                    if found := re.fullmatch(rf"{prefix}_([\d.]+)", version.name):
                        yield tuple(map(int, found[1].split(".")))


def test_files(wheel: Path) -> None:
    """The package as it lies in the source, the modules, the runtime, the licenses; no more."""
    name, version, _, _ = parse_wheel_filename(wheel.name)
    about = f"{name}-{version}.dist-info"
    sources = (path for path in (SOURCE / "python").rglob("*") if path.suffix in PACKAGED)
    expected = {str(path.relative_to(SOURCE / "python")) for path in sources}
    assert {f"roofstep/{file}" for file in ("py.typed", "_core.pyi", "kernels.pxd")} < expected
    expected |= {"roofstep/_core.so", "roofstep/kernels.so", RUNTIME}
    expected |= {f"{about}/{file}" for file in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    expected |= {f"{about}/licenses/{file}" for file in ("LICENSE", "licenses/libgomp.txt")}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if not name.endswith("/")}
        metadata = Parser().parsestr(archive.read(f"{about}/METADATA").decode())
    assert {re.sub(r"\.cpython-[^/]+\.so$", ".so", name) for name in found} == expected
    assert metadata.get_all("License-File") == ["LICENSE", "licenses/libgomp.txt"]


def test_size(wheel: Path, libraries: dict[str, ELFFile]) -> None:
    """Under 3 MB, and nothing in it for debuggers."""
    assert wheel.stat().st_size < 3_000_000
    for name, library in libraries.items():
        sections = [section.name for section in library.iter_sections()]
        assert not [s for s in sections if s.startswith((".symtab", ".debug"))], name


def test_the_tag_is_true(wheel: Path, libraries: dict[str, ELFFile]) -> None:
    """The tag names the newest glibc that anything in it asks for, or a later one."""
    platforms = [tag.platform for tag in parse_wheel_filename(wheel.name)[3]]
    oldest = min(
        (int(major), int(minor))
        for platform in platforms
        for major, minor in re.findall(r"^manylinux_(\d+)_(\d+)_", platform)
    )
    for name, library in libraries.items():
        assert max(needed_versions(library, "GLIBC")) <= oldest, name


def test_one_runtime_of_openmp(libraries: dict[str, ELFFile]) -> None:
    """The modules ask for it by its plain name and find the wheel's if none is loaded.

    Torch's ends with the symbols of version 5.0, and may be the one that is loaded.
    """
    assert dynamic(libraries[RUNTIME], "DT_SONAME") == ["libgomp.so.1"]
    users = {
        name: one for name, one in libraries.items() if "gomp" in str(dynamic(one, "DT_NEEDED"))
    }
    assert [name.split(".")[0] for name in users] == ["roofstep/_core"]
    (core,) = users.values()
    assert "libgomp.so.1" in dynamic(core, "DT_NEEDED")
    assert dynamic(core, "DT_RUNPATH") == ["$ORIGIN/libs"]
    assert dynamic(core, "DT_RPATH") == []
    assert (4, 0) <= max(needed_versions(core, "G?OMP")) <= (5, 0)


def test_files_of_the_sdist(sdist: Path) -> None:
    """All that is under version control but what is about this place; the wheel was built of it."""
    listing = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(listing, cwd=SOURCE, capture_output=True, text=True, check=True).stdout
    expected = {name for name in listed.split("\n") if name and not name.startswith(NOT_IN_SDIST)}
    with tarfile.open(sdist) as archive:
        found = {file.name.partition("/")[2] for file in archive.getmembers() if file.isfile()}
    assert found == expected | {"PKG-INFO"}
