"""What tests of threads and processes have in common."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import roofstep

# How many times as often what depends on chance is tried.
TIMES = int(os.environ.get("ROOFSTEP_TIMES", "1"))


class Holding(roofstep.ClipGradBase):
    """A clip that keeps a step from ending, until it may."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def _dygraph_clip(self, params_grads: Any) -> list[Any]:
        self.begun.set()
        assert self.may_end.wait(30)
        return list(params_grads)


def at_once(works: list[Callable[[], object]]) -> None:
    """Each in a thread of its own, from one moment on; what one raises is raised here."""
    start = threading.Barrier(len(works), timeout=60)
    raised: list[BaseException] = []

    def go(work: Callable[[], object]) -> None:
        try:
            start.wait()
            work()
        except BaseException as error:
            raised.append(error)

    row = [threading.Thread(target=go, args=(work,)) for work in works]
    for thread in row:
        thread.start()
    for thread in row:
        thread.join()
    for error in raised:
        raise error


# For the source of a process: does work in a forked child, which must end well.
IN_CHILD = """
import os, signal

def in_child(work):
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(30)
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
"""
