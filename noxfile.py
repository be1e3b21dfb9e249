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
    files = ("tests/test_machine.py", "tests/test_machine_lbfgs.py")
    session.run("python", "-m", "pytest", *files, "--no-showlocals")
