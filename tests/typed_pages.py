"""mypy on the Python of the README and the pages: `python tests/typed_pages.py`; .ci/run does."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mypy import api

TOP = Path(__file__).parents[1]
COMPILED = TOP / "docs" / "compiled.md"  # imports what is built and run in tests/wheel alone
PAGES = [TOP / "README.md", *sorted({*TOP.glob("docs/*.md")} - {COMPILED})]

# What mypy says of a page and is no fault of roofstep's types: the page, and what it says there.
KNOWN = {
    ("numerics.md", 'Argument 1 to "isclose"'),  # last_grad_norm is None before the first step
    ("numerics.md", 'Argument 1 to "isnan"'),
    ("numerics.md", "Incompatible types in assignment"),  # to NumPy's types float32 * T is float64
}


def main() -> int:
    """Reads all blocks at once, each as a module; its lines have the numbers of the page."""
    of: dict[str, Path] = {}
    with TemporaryDirectory() as directory:
        for page in PAGES:
            text = page.read_text()
            for block in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
                before = text[: block.start(1)].count("\n")
                file = Path(directory, f"{page.stem.replace('-', '_')}_{before}.py")
                file.write_text("\n" * before + block[1])
                of[file.name] = page
        flags = ["--config-file=", "--check-untyped-defs", "--scripts-are-modules"]
        files = [str(Path(directory, name)) for name in of]
        output, trouble, status = api.run([*flags, *files])
    if status not in (0, 1):
        sys.exit(output + trouble)
    left, wrong = set(KNOWN), []
    for file, line, message in re.findall(r"^(.*?):(\d+): error: (.*)$", output, re.MULTILINE):
        page = of[Path(file).name]  # in its cache mypy may know another directory
        known = {
            (name, said) for name, said in KNOWN if name == page.name and message.startswith(said)
        }
        left -= known
        wrong += [] if known else [f"{page.name}:{line}: {message}"]
    wrong += [f"{name}: mypy no longer says {text!r}; take it out of KNOWN" for name, text in left]
    print(*wrong, f"{len(of)} blocks read", sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
