"""Errors of a step in a run: Paddle hides them, and raise_step_errors shows them."""

from __future__ import annotations

import functools
import re
from typing import Any

import paddle

from roofstep import checks

last: dict[str, BaseException] = {}  # by the operators whose last step has failed
_of_paddle = paddle.static.Executor.run


@functools.wraps(_of_paddle)
def _run(*arguments: Any, **options: Any) -> Any:
    try:
        return _of_paddle(*arguments, **options)
    except SystemError as of_paddle:
        named = re.findall(r"roofstep_\w+_\d+", str(of_paddle))
        error = next((last.pop(name) for name in named if name in last), None)
        if error is None:
            raise
    raise error


def raise_step_errors(enabled: bool = True) -> None:
    """Let ``Executor.run`` raise the error of a step as itself.

    Paddle makes a SystemError of it, which has neither its text nor its cause. The error itself is
    logged (``roofstep.paddle``) and is ``optimizer.last_error`` in either case. This replaces the
    method ``paddle.static.Executor.run`` by one that calls it, for the whole process.

    Args:
        enabled: False puts Paddle's method back. Default True.

    Raises:
        TypeError: ``enabled`` is no bool.
        RuntimeError: something else has replaced the method since.

    Example:
        >>> import paddle, roofstep.paddle
        >>> roofstep.paddle.raise_step_errors()
        >>> roofstep.paddle.raise_step_errors(False)
    """
    old, new = (_of_paddle, _run) if checks.flag("enabled", enabled) else (_run, _of_paddle)
    if paddle.static.Executor.run not in (old, new):
        raise RuntimeError(
            f"Executor.run: expected Paddle's own method or ours, got "
            f"{paddle.static.Executor.run!r}; take that back first"
        )
    paddle.static.Executor.run = new
