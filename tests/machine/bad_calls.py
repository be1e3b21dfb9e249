"""Calls that must fail and leave all as it is: what the machine of test_machine.py tries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

import roofstep as rs
from model import KEYS, Member
from test_exact import CLASSES
from test_refusals import NO_ARRAYS, Rate

BAD = (TypeError, ValueError)
BAD_CALLS: list[Callable[[Any, Any], None]] = []


def bad_call(function: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    BAD_CALLS.append(function)
    return function


class RaisingClip(rs.ClipGradBase):
    def _dygraph_clip(self, params_grads: Any) -> Any:
        raise ArithmeticError


def ready(machine: Any, data: Any) -> Member | None:
    """Gives all parameters gradients; one of those that a step would move, if there is any."""
    machine.settle()
    for m, p in zip(machine.model.members, machine.real.parameters, strict=True):
        p.grad = np.ones_like(m.p)
    moving = [m for m in machine.model.members if m.attr["trainable"] and m.p.size]
    return data.draw(st.sampled_from(moving), "member") if moving else None


def flat(machine: Any, m: Member) -> np.ndarray:
    """The very memory of a parameter."""
    return machine.real.parameters[m.index].data.transpose(m.axes).reshape(-1)


@bad_call
def a_gradient_of_another_kind(machine: Any, data: Any) -> None:
    if m := ready(machine, data):
        p = machine.real.parameters[m.index]
        kinds = {name: row[0] for name, row in NO_ARRAYS.items()}
        kinds["shape"] = np.ones((*m.p.shape, 2), m.p.dtype)
        kinds["dtype"] = np.ones(m.p.shape, "f8" if m.p.dtype == np.float32 else "f4")
        p.grad = kinds[data.draw(st.sampled_from([*kinds]), "kind")]
        machine.refuse(machine.real.optimizer.step, BAD, also_gradients=False)
        pairs = [(p, p.grad)]
        machine.refuse(
            lambda: machine.real.optimizer.apply_gradients(pairs), BAD, also_gradients=False
        )
        p.grad = None


@bad_call
def a_gradient_in_a_parameter(machine: Any, data: Any) -> None:
    """One element of it is that of a parameter which is to be moved."""
    if m := ready(machine, data):
        like = [q for q in machine.model.members if q.p.dtype == m.p.dtype]
        like = [q for q in like if q.attr["trainable"] and q.p.size]
        memory = flat(machine, data.draw(st.sampled_from(like), "other"))
        at = data.draw(st.integers(0, memory.size - 1), "at")
        p = machine.real.parameters[m.index]
        p.grad = np.lib.stride_tricks.as_strided(memory[at:], m.p.shape, [0] * m.p.ndim)
        machine.refuse(machine.real.optimizer.step, ValueError)
        p.grad = None


@bad_call
def a_gradient_that_cannot_be_zeroed(machine: Any, data: Any) -> None:
    """It repeats itself, may not be written, or is another's, too."""
    if m := ready(machine, data):
        p = machine.real.parameters[m.index]
        way = data.draw(st.sampled_from(["repeats", "read-only", "shared"]), "way")
        like = [q for q in machine.model.members if q is not m and q.attr["trainable"]]
        like = [q for q in like if q.p.shape == m.p.shape and q.p.dtype == m.p.dtype]
        if way == "repeats" and m.p.size > 1:
            one = np.ones((), m.p.dtype)
            p.grad = np.lib.stride_tricks.as_strided(one, m.p.shape, [0] * m.p.ndim)
        elif way == "shared" and like:
            p.grad = machine.real.parameters[like[0].index].grad
        else:
            p.grad.flags.writeable = False
        machine.refuse(lambda: machine.real.optimizer.step(clear_grad=True), ValueError)
        p.grad = None


@bad_call
def a_parameter_in_another(machine: Any, data: Any) -> None:
    if m := ready(machine, data):
        members = machine.model.members
        like = [q for q in members if q is not m and q.p.dtype == m.p.dtype]
        like = [q for q in like if q.p.size >= m.p.size]
        if not like:
            return
        other = data.draw(st.sampled_from(like), "other")
        memory = flat(machine, other)
        at = data.draw(st.integers(0, memory.size - m.p.size), "at")
        p = machine.real.parameters[m.index]
        whole = p.data
        shape = [m.p.shape[a] for a in m.axes]
        p.data = memory[at : at + m.p.size].reshape(shape).transpose(np.argsort(m.axes))
        if other.attr["trainable"] and data.draw(st.booleans(), "rests"):
            p.grad = None  # what is not moved is not written into, either
        machine.refuse(machine.real.optimizer.step, ValueError)
        p.data = whole


@bad_call
def rows_that_cannot_be(machine: Any, data: Any) -> None:
    if m := ready(machine, data):
        takes = machine.name in ("SGD", "Adagrad", "Adam", "AdamW")
        shape = m.p.shape[1:]
        number = data.draw(st.sampled_from([-1, len(m.p)]), "row") if m.p.ndim and takes else 0
        wide = data.draw(st.booleans(), "too wide")
        values = np.ones((1, *shape, *([2] if wide else [])), m.p.dtype)
        machine.real.parameters[m.index].grad = rs.SelectedRows(np.array([number]), values)
        machine.refuse(machine.real.optimizer.step, BAD)
        if m.p.ndim and takes:
            good = rs.SelectedRows(np.array([0]), np.ones((1, *shape), m.p.dtype))
            machine.real.parameters[m.index].grad = good
            machine.refuse(lambda: machine.real.optimizer.step(clear_grad=True), ValueError)
        machine.real.parameters[m.index].grad = None


@bad_call
def an_array_of_another_kind(machine: Any, data: Any) -> None:
    """In the place of a parameter's."""
    if m := ready(machine, data):
        p = machine.real.parameters[m.index]
        whole = p.data
        other = "f8" if m.p.dtype == np.float32 else "f4"
        read_only = whole.copy(order="K")
        read_only.flags.writeable = False
        shape = (*m.p.shape, 2)
        kinds = [np.ones(m.p.shape, other), np.ones(shape, m.p.dtype), read_only]
        p.data = data.draw(st.sampled_from(range(3)).map(kinds.__getitem__), "kind")
        machine.refuse(machine.real.optimizer.step, BAD, look=False)
        p.data = whole


SETTINGS = {
    "learning_rate": [-1.0, math.nan, math.inf, "1", None],
    "weight_decay": ["1", math.nan, [0.1]],
    "grad_clip": [1.0, "norm"],
    "average_decay": [1.0, -0.1, math.nan, True],
    "no such setting": [1.0],
    "etas": [(1.2, 0.5), (0.5,), 0.5],
    "learning_rate_range": [(1.0, 0.5), (0.0, 1.0)],
    "batch_num": [0, 1.0, True],
    "exclude_from_weight_decay_fn": ["p0"],
}
FLAGS = ("use_nesterov", "lazy_mode", "amsgrad", "centered", "always_adapt")


@bad_call
def a_setting_that_cannot_be(machine: Any, data: Any) -> None:
    if ready(machine, data):
        groups = machine.real.optimizer.param_groups
        known = [*KEYS, *CLASSES[machine.name]._settings, "no such setting"]
        key = data.draw(st.sampled_from(known), "setting")
        if key in FLAGS:
            bad = [1, None, "True"]
        else:
            bad = SETTINGS.get(key, [-math.inf, math.nan, "0.5", None])
        place = data.draw(st.sampled_from(range(len(groups))), "group")
        before = dict(groups[place])
        groups[place][key] = data.draw(st.sampled_from(bad), "value")
        rated = key != "learning_rate" or machine.model.moves(place)
        optimizer = machine.real.optimizer
        calls = [optimizer.state_dict, *([optimizer.step] if rated else [])]
        if key != "average_decay":  # which these two set
            calls += [lambda d=d: optimizer.average_weights(d) for d in (None, 0.5)]
        for call in calls:
            machine.refuse(call, BAD, look=False)
        groups[place].clear()
        groups[place].update(before)


@bad_call
def a_constant_beyond_float32(machine: Any, data: Any) -> None:
    m = ready(machine, data)
    if m and m.p.dtype == np.float32 and (lr := machine.model.settings(m).lr) > 1e-41:
        group = machine.real.optimizer.param_groups[machine.model.owners[m.index]]
        before = group["learning_rate"]
        group["learning_rate"] = before / lr * 1e39
        machine.refuse(machine.real.optimizer.step, ValueError)
        group["learning_rate"] = before


@bad_call
def an_argument_that_cannot_be(machine: Any, data: Any) -> None:
    optimizer = machine.real.optimizer
    first = machine.real.parameters[0]
    frozen = np.ones(3)
    frozen.flags.writeable = False
    group = {"params": [np.ones(3)]}
    calls: list[Callable[[], Any]] = [
        lambda: optimizer.step(1),
        lambda: optimizer.clear_grad(set_to_zero=1),
        lambda: optimizer.average_weights(1.0),
        lambda: optimizer.set_lr_scheduler(0.5),
        lambda: optimizer.apply_gradients([("p0", None), (first, None)]),
        lambda: optimizer.apply_gradients([("nobody", np.ones(1))]),
        lambda: optimizer.apply_gradients([first]),
        lambda: optimizer.minimize(0.0, parameters=["nobody"]),
        lambda: optimizer.minimize(lambda: (0.0, [])),
        lambda: optimizer.minimize(lambda: (0.0, [None] * len(machine.real.parameters))),
        lambda: optimizer.add_param_group([np.ones(3)]),
        lambda: optimizer.add_param_group({}),
        lambda: optimizer.add_param_group({"params": []}),
        lambda: optimizer.add_param_group({"params": [first]}),
        lambda: optimizer.add_param_group({"params": [np.ones(3), first.data]}),
        lambda: optimizer.add_param_group({"params": [rs.Parameter(np.ones(3), "p0")]}),
        lambda: optimizer.add_param_group({"params": [frozen]}),
        lambda: optimizer.add_param_group({**group, "learning_rate": -1.0}),
        lambda: optimizer.add_param_group({**group, "no such setting": 1}),
        lambda: optimizer.set_state_dict([]),
        lambda: optimizer.save(1),
        *(lambda s=s: optimizer.step(grad_scale=s) for s in (0.0, -1.0, math.nan, 1e-39, "2")),
    ]
    if machine.name != "Rprop" and not machine.model.schedule:
        calls += [lambda s=s: optimizer.set_lr(s) for s in (-1.0, math.nan, "1", None, abs)]
    machine.refuse(data.draw(st.sampled_from(calls), "call"), BAD)


@bad_call
def an_error_of_the_user(machine: Any, data: Any) -> None:
    """In a loss, a clip or a schedule."""
    if not (m := ready(machine, data)):
        return
    optimizer = machine.real.optimizer
    machine.refuse(lambda: optimizer.minimize(lambda: 1 // 0), ZeroDivisionError)
    group = optimizer.param_groups[machine.model.owners[m.index]]
    before, group["grad_clip"] = group["grad_clip"], RaisingClip()
    machine.refuse(optimizer.step, ArithmeticError)
    group["grad_clip"] = before
    if machine.model.schedule:
        for bad, error in ((math.nan, ValueError), (KeyError(), KeyError), ("1", TypeError)):
            optimizer.set_lr_scheduler(Rate(bad))
            machine.refuse(optimizer.step, error, look=False)
            optimizer.set_lr_scheduler(machine.real.schedule)


@bad_call
def a_state_that_does_not_fit(machine: Any, data: Any) -> None:
    saved = machine.real.optimizer.state_dict()
    arrays = [k for k, v in saved.items() if isinstance(v, np.ndarray) and "average" not in k]
    ways = ["key", "rate", "group"]
    if arrays:
        ways += ["shape", "dtype", "count", "missing"]
    way = data.draw(st.sampled_from(ways), "way")
    key = data.draw(st.sampled_from(arrays), "entry") if arrays else ""
    owner = key.split("_")[0]
    if way == "key":
        saved["p0_nothing_0"] = np.ones(1)
    elif way == "rate":
        saved["learning_rate"] = math.nan
    elif way == "group":
        saved["param_groups"][-1]["params"] = ["p0", "nobody"]
    elif way == "shape":
        saved[key] = np.ones((2, *saved[key].shape, 2), saved[key].dtype)
    elif way == "dtype":
        saved[key] = saved[key].astype("c16")
    elif way == "count":
        counts = [-1, 2**63 - 1, 1.5]
        saved[f"{owner}_step_0"] = np.array(data.draw(st.sampled_from(counts), "count"))
    elif any(k.startswith(f"{owner}_") for k in saved.keys() - {key}):
        del saved[key]
    else:
        return  # of a parameter that is not there nothing is said
    machine.refuse(lambda: machine.real.optimizer.set_state_dict(saved), BAD)


@bad_call
def a_file_that_is_damaged(machine: Any, data: Any) -> None:
    path = machine.directory / "damaged.safetensors"
    machine.real.optimizer.save(path, parameters=data.draw(st.booleans(), "parameters"))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1), "at")
    if data.draw(st.booleans(), "cut"):
        del content[at:]
    else:
        content[at] ^= 1 << data.draw(st.integers(0, 7), "bit")
    path.write_bytes(content)
    machine.refuse(lambda: machine.real.optimizer.load(path), ValueError)
