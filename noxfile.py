"""What takes an environment or a build of its own: `nox -s NAME`, or in short `-- short`."""

from __future__ import annotations

import nox

nox.options.sessions = []
nox.options.error_on_missing_interpreters = True


@nox.session(python="3.14t")
def freethreaded(session: nox.Session) -> None:
    """The suite without a GIL, in short what has threads; of another Python: `-P python3.13t`."""
    session.env["PIP_CONSTRAINT"] = "constraints.txt"
    short = session.posargs == ["short"]
    session.install(*([".", "pytest", "threadpoolctl"] if short else [".[test]"]))
    session.env["PYTHON_GIL"] = "0"  # which a Python with a GIL refuses
    tests = ("threads", "process", "processes") if short else ()
    session.run("python", "-m", "pytest", *(f"tests/test_{name}.py" for name in tests))
