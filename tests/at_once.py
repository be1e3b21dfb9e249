"""What tests of threads and processes have in common."""

from __future__ import annotations

import threading
from typing import Any

import roofstep


class Holding(roofstep.ClipGradBase):
    """A clip that keeps a step from ending, until it may."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def _dygraph_clip(self, params_grads: Any) -> list[Any]:
        self.begun.set()
        assert self.may_end.wait(30)
        return list(params_grads)


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
