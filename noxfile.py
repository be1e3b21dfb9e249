"""What takes an environment or a build of its own: `nox -s NAME`, or in short `-- short`."""

from __future__ import annotations

import nox

nox.options.sessions = []


@nox.session
def machine(session: nox.Session) -> None:
    """Any calls in any order, held to the oracle: at random, 100 times as many as the suite has."""
    session.env["PIP_CONSTRAINT"] = "constraints.txt"
    session.install(".[test]")
    if session.posargs != ["short"]:
        session.env["ROOFSTEP_MACHINE"] = "100"
    session.run("python", "-m", "pytest", "tests/test_machine.py", "--no-showlocals")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Hostile tensors and files, each for 10 minutes or `-- SECONDS`; needs clang."""
    (length,) = session.posargs or ["600"]
    session.env["PIP_CONSTRAINT"] = "constraints.txt"
    wanted = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["fuzz"]
    session.install(*wanted)
    session.run("python", "tests/fuzz/run.py", "8" if length == "short" else length)
