"""States as Paddle's own optimizers save them, so that training goes on there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roofstep import checkpoint, checks
from roofstep.types import Integer

if TYPE_CHECKING:
    from roofstep.optimizer import Optimizer


def pdopt(optimizer: Optimizer, counter: Integer = 0) -> dict[str, Any]:
    """The state of an optimizer as Paddle's optimizer of the same class would save it.

    Save it by ``paddle.save(pdopt(optimizer), "x.pdopt")``, or give it to ``set_state_dict`` of
    Paddle's optimizer, made with the same settings and ``name``: a state there has no settings, and
    no averaged weights. (The way back is the method `roofstep.Optimizer.set_state_dict`, which
    takes Paddle's states as they are.)

    Args:
        optimizer: one of a class that Paddle has too, but LBFGS.
        counter: what Paddle puts at the end of the names of states: 0 for its first optimizer of
            these parameters in a process, 1 for the second. Default 0.

    Returns:
        A dict of copies. It has for every parameter that has been stepped the states, powers of the
        betas and counts under Paddle's names; and ``LR_Scheduler``, the state of the schedule, if
        there is one.

    Raises:
        ValueError: Paddle has no such optimizer.

    Example:
        >>> import paddle, roofstep.paddle
        >>> w = paddle.create_parameter([2], "float32", attr=paddle.ParamAttr(name="w_of_pdopt"))
        >>> w.grad = paddle.ones([2])
        >>> ours = roofstep.Adam(0.1, parameters=[w])
        >>> ours.step()
        >>> state = roofstep.paddle.pdopt(ours)
        >>> list(state)[:3]
        ['w_of_pdopt_moment1_0', 'w_of_pdopt_moment2_0', 'w_of_pdopt_beta1_pow_acc_0']
        >>> theirs = paddle.optimizer.Adam(0.1, parameters=[w])
        >>> theirs.set_state_dict(state)
    """
    return checkpoint.as_paddle(
        optimizer.state_dict(),
        optimizer.param_groups,
        optimizer,
        optimizer._parameters,
        optimizer._name,
        checks.whole("counter", counter, 0),
    )
