"""What the machine of test_machine.py is made of: settings, arrays, and gradients of every kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

import reference as ref
import roofstep as rs
from model import KEYS, NO_DECAY, SCHEDULES, Group, Member, Model
from test_exact import CLASSES, OPTIMIZERS, SHAPES, SMALL, Layout, extreme, ordinary, wild


def third(parameter: Any) -> float:
    return 0.3


def even_name(name: str) -> bool:
    return name[-1] in "02468"


def even_parameter(parameter: Any) -> bool:
    return even_name(parameter.name)


# Functions of a module, which pickle knows.
FUNCTIONS = {
    "lr_ratio": third,
    "apply_decay_param_fun": even_name,
    "exclude_from_weight_decay_fn": even_parameter,
}
FRACTIONS = st.floats(0, 1 - 2.0**-20)
SIZES = st.one_of(st.sampled_from([1e-40, 1e-20, 3.0]), st.floats(0, 10))
# What is tried beside the values in the table of test_exact.py.
MORE: dict[str, Any] = {
    **dict.fromkeys(("beta1", "beta2", "beta3", "rho", "dampening"), FRACTIONS),
    **dict.fromkeys(("epsilon", "momentum", "momentum_decay", "lr_decay"), SIZES),
    "initial_accumulator_value": SIZES,
    "lars_coeff": st.floats(1e-40, 10),
    "rescale_grad": st.sampled_from([-0.7, 0.0, 1e-20]),
    "lamb_weight_decay": st.floats(-1, 1),
    "batch_num": st.integers(1, 4),
    "learning_rate": st.sampled_from([0.0, 1e-40, 1 / 3, 3.0]),
    **{name: st.sampled_from([None, function]) for name, function in FUNCTIONS.items()},
}
COUPLED = st.sampled_from([None, ("l2", 0.03), ("l1", 0.02), ("l2", 0.0), ("l2", -0.2)])
RATES = st.sampled_from([1.0, 1.0, 0.0, 0.3, 2.0])


def option(data: Any, name: str, key: str) -> Any:
    """A value for an option of a class."""
    values = OPTIMIZERS[name].options[key]
    if key in FUNCTIONS:
        return data.draw(MORE[key], key)
    known = st.sampled_from(values)
    if key in MORE and not (name == "Rprop" and key == "learning_rate"):  # which has a range
        known = st.one_of(known, MORE[key])
    return data.draw(known, key)


def weight_decay(data: Any, name: str) -> Any:
    if "weight_decay" in OPTIMIZERS[name].options and name != "LARS":
        return data.draw(st.sampled_from([None, 0.3, 0.0, -0.2, 1.0]), "weight_decay")
    return None if name in NO_DECAY else data.draw(COUPLED, "weight_decay")


def setting(data: Any, model: Model) -> tuple[str, Any]:
    """Something that a group may set, and a value for it."""
    name = model.name
    keys = [*KEYS, *CLASSES[name]._settings]
    key = data.draw(st.sampled_from([k for k in keys if not in_vain(name, k)]), "setting")
    if key == "learning_rate":
        return key, data.draw(RATES, key)
    if key == "weight_decay":
        return key, weight_decay(data, name)
    if key == "grad_clip":
        return key, data.draw(st.sampled_from([None, *range(len(model.clips))]), key)
    if key == "average_decay":
        return key, data.draw(st.sampled_from([None, 0.0, 0.5, 0.999]), key)
    return key, option(data, name, key)


def in_vain(name: str, key: str) -> bool:
    return key == "weight_decay" and name in NO_DECAY


def clips() -> list[tuple[Any, Any]]:
    """The package's and the oracle's; a place in this list is one object, and one norm."""
    return [
        *((rs.ClipGradByGlobalNorm(limit), ref.GlobalNorm(limit)) for limit in (0.5, 2.0)),
        (rs.ClipGradByGlobalNorm(math.inf), ref.GlobalNorm(math.inf)),
        (rs.ClipGradByNorm(0.75), ref.Norm(0.75)),
        (rs.ClipGradByValue(0.5, -0.25), ref.Value(-0.25, 0.5)),
        (rs.ClipGradByValue(0.5, 0.125), ref.Value(0.125, 0.5)),
    ]


def model(data: Any, name: str) -> Model:
    """An optimizer without parameters."""
    entry = OPTIMIZERS[name]
    options = {key: option(data, name, key) for key in entry.options if key != "weight_decay"}
    known = clips()
    common = {
        "learning_rate": 1.0,
        "weight_decay": weight_decay(data, name),
        "grad_clip": data.draw(st.sampled_from([None, *range(len(known))]), "grad_clip"),
        "average_decay": None,
    }
    own = {key: options[key] for key in CLASSES[name]._settings}
    kinds = [None, None, *SCHEDULES] if name != "Rprop" else [None]
    return Model(
        name,
        options,
        {**common, **own},
        known,
        skip=data.draw(st.booleans(), "skip_nonfinite") if takes_skip(name) else False,
        lr=options["learning_rate"],
        schedule=data.draw(st.sampled_from(kinds), "schedule"),
    )


def takes_skip(name: str) -> bool:
    return "skip_nonfinite" not in OPTIMIZERS[name].without


def group(data: Any, model: Model) -> Group:
    """A new group: what it sets itself, which `own` names, and the rest."""
    count = data.draw(st.integers(0, 3), "settings of the group")
    own = dict(setting(data, model) for _ in range(count))
    return {**model.defaults, **own, "own": own}


def attribute(data: Any) -> tuple[str, Any]:
    key = data.draw(st.sampled_from(["learning_rate", "regularizer", "need_clip", "trainable"]))
    kinds = {"learning_rate": RATES, "regularizer": COUPLED}
    return key, data.draw(kinds.get(key, st.booleans()), key)


def values(data: Any, size: int, dtype: Any) -> np.ndarray:
    """Usual numbers, hard ones, or all bit patterns."""
    make = data.draw(st.sampled_from([ordinary, ordinary, ordinary, extreme, wild]), "numbers")
    return make(np.random.default_rng(data.draw(st.integers(0, 2**32), "seed")), size, dtype)


ONE_SHAPE = st.one_of(st.sampled_from([(n,) for n in SMALL]), SHAPES)
SHAPE_LISTS = st.one_of(
    st.lists(ONE_SHAPE, min_size=1, max_size=3),
    st.lists(st.sampled_from([(), (1,), (2,), (3, 1), (0,), (5,)]), min_size=20, max_size=40),
)


def add_members(data: Any, model: Model, group: Group) -> None:
    """The group and its parameters, dense in some order of their dimensions."""
    model.groups.append(group)
    shapes = data.draw(SHAPE_LISTS, "shapes")
    if data.draw(st.integers(0, 9), "large") == 0:
        shapes = [*shapes, (70_001,)]  # for which several threads are asked
    for shape in shapes:
        dtype = data.draw(st.sampled_from([np.float32, np.float64]), "dtype")
        order = tuple(range(len(shape)))
        if len(shape) > 1:
            order = tuple(data.draw(st.permutations(order), "order"))
        attr = {"learning_rate": 1.0, "regularizer": None, "need_clip": True, "trainable": True}
        if data.draw(st.integers(0, 4), "attributes") == 0:
            attr |= dict([attribute(data)])
        flat = values(data, math.prod(shape), dtype)
        array = Layout(shape, order, (1,) * len(shape)).view(flat)
        model.members.append(Member(len(model.members), array, order, attr))
        model.owners.append(len(model.groups) - 1)


def is_sparse(model: Model, m: Member) -> bool:
    """Whether its gradient may be some rows."""
    known = model.name in ("SGD", "Adagrad", "Adam", "AdamW")
    return known and m.p.ndim > 0 and m.axes == tuple(range(m.p.ndim))


def gradient(data: Any, model: Model, m: Member, clearable: bool = False) -> Any:
    """None, an array in any memory, or rows; or else only what a step can zero."""
    kinds = ["none", "plain", "any", "any"]
    if not clearable:
        kinds += ["read-only"] + ["rows"] * 3 * is_sparse(model, m)
    kind = data.draw(st.sampled_from(kinds), "gradient")
    if kind == "none":
        return None
    T, shape = m.p.dtype.type, m.p.shape
    if kind == "rows":
        numbers = st.lists(st.integers(0, max(shape[0] - 1, 0)), max_size=6 * (shape[0] > 0))
        rows = np.array(data.draw(numbers, "rows"), data.draw(st.sampled_from(["i4", "i8"])))
        found = values(data, len(rows) * math.prod(shape[1:]), T).reshape(len(rows), *shape[1:])
        return rs.SelectedRows(rows, np.asfortranarray(found))
    if kind == "plain":
        return values(data, m.p.size, T).reshape(shape)
    one_step = st.sampled_from([-2, -1, 1, 2, 3] + [0] * (not clearable))
    steps = data.draw(st.tuples(*(one_step for _ in shape)), "steps")
    order = tuple(data.draw(st.permutations(range(len(shape))), "order"))
    layout = Layout(shape, order, steps)
    found = layout.view(values(data, math.prod(layout.extents()), T))
    if kind == "read-only":
        found.flags.writeable = False
    return found


def gradients(
    data: Any, model: Model, parameters: list[rs.Parameter], clearable: bool = False
) -> None:
    """Gives every parameter a gradient or none, or that of another one of its kind."""
    for m in model.members:
        p = parameters[m.index]
        p.grad = gradient(data, model, m, clearable)
        if clearable:
            continue
        like = [
            q.grad
            for q in parameters[: m.index]
            if isinstance(q.grad, np.ndarray) and q.grad.shape == p.data.shape
            if q.grad.dtype == p.data.dtype
        ]
        if like and data.draw(st.integers(0, 3), "shared") == 0:
            p.grad = like[-1]
