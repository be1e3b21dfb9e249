"""Nothing of Paddle's is missing: its classes, their arguments, what a group takes, the methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import roofstep
from harness import (
    CLIPS,
    OPTIMIZERS,
    PADDLE,
    REGULARIZERS,
    SCHEDULES,
    Made,
    Ours,
    Paddles,
    Run,
    agree,
    both,
    close,
    distance,
    last,
    paddle,
)
from table import COMMON, FAMILIES, STEADY
from test_differences import ENTRIES
from test_schedules import LISTED as LISTED_OF_SCHEDULES

# Where a signature differs, the entry on docs/differences-from-paddle.md.
SIGNATURES = {
    "Optimizer": "the-base-class-has-a-default-rate",
    "ParamAttr": "parameters-are-numpy-arrays",
}
# Paddle's methods that roofstep lacks, and those whose arguments differ.
ABSENT_METHODS = {
    "append_regularization_ops",
    "get_opti_var_name_list",
    "need_refuse",
    "reset_need_refuse",
    "set_merged_model_params",
    "use_fusion_storage",
}
METHODS = {
    "step": "a-step-may-zero-the-gradients",
    "clear_grad": "clear_grad-drops-the-gradients",
}

# What a class that is no optimizer is tried with: how a run is given one, its arguments, another
# value of each, and other values that change nothing.
Way = Mapping[str, Any]
PARTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "ClipGradByValue": ({"max": 0.75}, {"max": 0.5, "min": -0.25}, {}),
    "ClipGradByNorm": ({"clip_norm": 1.5}, {"clip_norm": 0.5}, {}),
    "ClipGradByGlobalNorm": (
        {"clip_norm": 1.5},
        {"clip_norm": 0.5},
        {"group_name": "another", "auto_skip_clip": True},
    ),
    "L1Decay": ({}, {"coeff": 0.25}, {}),
    "L2Decay": ({}, {"coeff": 0.25}, {}),
    "ParamAttr": (
        {},
        {
            "learning_rate": 0.5,
            "regularizer": Made("L2Decay", 0.25),
            "trainable": False,
            "need_clip": False,
        },
        {"name": "another"},
    ),
}
LISTED_OF_PARTS = {
    ("ParamAttr", "initializer"): "parameters-are-numpy-arrays",
    ("ParamAttr", "do_model_average"): "parameters-are-numpy-arrays",
}

LISTED_OF_GROUPS = {
    ("Rprop", "learning_rate"): "the-rate-of-rprop-is-where-step-sizes-begin",
    ("Rprop", "weight_decay"): "lamb-and-rprop-have-no-weight_decay",
    ("Lamb", "weight_decay"): "lamb-and-rprop-have-no-weight_decay",
}


# What Paddle does not have is told by name only, after what it has.
OURS = {"skip_nonfinite", "grad_scale"}


def arguments(cls: Any) -> dict[str, Any]:
    """Names and defaults in order, without ours."""
    parameters = [p for p in inspect.signature(cls).parameters.values() if p.name not in OURS]
    return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}


def test_our_own_arguments_are_told_by_name() -> None:
    for function in (*(getattr(roofstep, name) for name in FAMILIES), roofstep.Optimizer.step):
        parameters = inspect.signature(function).parameters
        own = [p for p in parameters.values() if p.name in OURS]
        assert own == [*parameters.values()][-1:]
        assert own[0].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", [*OPTIMIZERS, *CLIPS, *REGULARIZERS, "ParamAttr"])
def test_class(name: str) -> None:
    """It is there, with the same arguments in the same order with the same defaults."""
    assert name in roofstep.__all__
    same = list(arguments(getattr(roofstep, name)).items()) == list(
        arguments(getattr(PADDLE, name)).items()
    )
    assert same != (name in SIGNATURES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name: str) -> None:
    assert name in roofstep.lr.__all__
    theirs = arguments(getattr(PADDLE.lr, name))
    assert list(arguments(getattr(roofstep.lr, name)).items()) == list(theirs.items())


def test_every_optimizer_is_in_the_table() -> None:
    assert {*FAMILIES, "Optimizer", "LBFGS"} == {*OPTIMIZERS}


@pytest.mark.parametrize(
    ("cls", "argument"),
    [(cls, argument) for cls in FAMILIES for argument in arguments(getattr(PADDLE, cls))],
)
def test_argument_of_an_optimizer(cls: str, argument: str) -> None:
    """Another value changes the result as in Paddle, or nothing, or is listed as a difference."""
    family = FAMILIES[cls]
    kinds = [argument in kind for kind in (family.others, family.idle, family.listed)]
    assert sum(kinds) == 1
    names = (
        [name for name in family.names if name in STEADY]
        if argument in family.idle
        else family.names
    )
    base = both(cls, family.base, "float32", names)
    if argument in family.others:
        result = agree(*base)
        if argument == "parameters":
            fewer = agree(*both(cls, family.base, "float32", family.names[:-1]))
            still = {"big": Ours(cls, family.base, "float32", ("big",)).values()["big"]}
            assert distance(result, fewer | still) > 1e-3
            return
        if argument == "grad_clip":
            names = tuple(n for n in names if n in family.names_under_global_norm)
            result = {name: result[name] for name in names}
        changed = family.base | {argument: family.others[argument]}
        assert distance(result, agree(*both(cls, changed, "float32", names))) > 1e-4
    elif argument in family.idle:
        idle = both(cls, family.base | {argument: family.idle[argument]}, "float32", names)
        assert distance(last(base[0]), last(idle[0])) == 0
        close(last(idle[1]), last(base[1]), "float32")  # Paddle's use_multi_tensor rounds otherwise
    else:
        assert family.listed[argument] in ENTRIES


LBFGS = {"learning_rate": 0.5, "max_iter": 4}
OTHERS_OF_LBFGS: dict[str, Any] = {
    "learning_rate": 0.25,
    "max_iter": 2,
    "max_eval": 3,
    "tolerance_grad": 10.0,
    "tolerance_change": 30.0,
    "history_size": 1,
    "line_search_fn": "strong_wolfe",
    "parameters": ("row",),
}
LISTED_OF_LBFGS = {"weight_decay": "lbfgs-decays", "grad_clip": "lbfgs-takes-no-clip"}


def bowl(run: Run) -> Callable[[], Any]:
    """A loss of all parameters, steeper in some than in others, with its gradients."""
    first = run.values()  # only for their shapes
    steepness = {n: 1 + np.arange(v.size).reshape(v.shape) / 4 for n, v in first.items()}

    def closure() -> Any:
        values = run.values()
        for name, parameter in run.parameters.items():
            run.give(parameter, 2 * steepness[name] * (values[name] - 3))
        loss = sum(float((steepness[n] * (v - 3) ** 2).sum()) for n, v in values.items())
        return paddle.to_tensor(loss, "float64") if isinstance(run, Paddles) else loss

    return closure


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
@pytest.mark.parametrize("argument", arguments(PADDLE.LBFGS))
def test_argument_of_lbfgs(argument: str) -> None:
    """The same for LBFGS in two short steps; test_lbfgs_trajectories.py has the longer ones."""
    if argument in LISTED_OF_LBFGS:
        assert LISTED_OF_LBFGS[argument] in ENTRIES
        return

    def result(settings: dict[str, Any]) -> dict[str, Any]:
        names = settings.pop("parameters", ("row", "matrix"))
        runs = both("LBFGS", settings, "float64", names)
        for run in runs:
            for _ in range(2):
                run.optimizer.step(bowl(run))
        ours, theirs = (run.values() for run in runs)
        close(ours, theirs, "float64")
        still = Ours("SGD", {}, "float64", ("row", "matrix")).values()
        return still | ours

    other = {**OTHERS_OF_LBFGS, "name": "another"}[argument]
    apart = distance(result(dict(LBFGS)), result(LBFGS | {argument: other}))
    assert apart == 0 if argument == "name" else apart > 1e-3


@pytest.mark.parametrize(
    ("cls", "argument"),
    [(cls, argument) for cls in PARTS for argument in arguments(getattr(PADDLE, cls))],
)
def test_argument_of_a_part(cls: str, argument: str) -> None:
    """The same for clips, regularizers and the attributes of a parameter."""
    if (cls, argument) in LISTED_OF_PARTS:
        assert LISTED_OF_PARTS[cls, argument] in ENTRIES
        return
    base, others, idle = PARTS[cls]

    def result(settings: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {"learning_rate": 2**-7}
        attributes: dict[str, Any] = {}
        if cls in CLIPS:
            made["grad_clip"] = Made(cls, **settings)
        elif cls in REGULARIZERS:
            made["weight_decay"] = Made(cls, **settings)
        else:
            made["grad_clip"] = Made("ClipGradByGlobalNorm", 2.0)
            attributes = {"big": settings}
        return agree(*both("SGD", made, "float32", attributes=attributes))

    apart = distance(result(base), result(base | {argument: {**others, **idle}[argument]}))
    assert apart == 0 if argument in idle else apart > 1e-3


def keys_of_groups() -> list[tuple[str, str]]:
    """What the groups of Paddle's classes take, as they say themselves."""
    found = []
    for cls, family in FAMILIES.items():
        optimizer = both(cls, family.base, "float32", ("row",))[1].optimizer
        keys = {*optimizer._default_dict, "learning_rate", "grad_clip"}
        if "weight_decay" not in family.others:
            keys -= {"weight_decay"}
        # Momentum keeps its decay under these too; they are no settings.
        found += [
            (cls, key) for key in sorted(keys - {"regularization_method", "regularization_coeff"})
        ]
    return found


@pytest.mark.parametrize(("cls", "key"), keys_of_groups())
def test_key_of_a_group(cls: str, key: str) -> None:
    """Another value in one group changes its parameters as in Paddle, and no other ones.

    An idle one, which concerns gradients of another kind, changes nothing.
    """
    family = FAMILIES[cls]
    listed = LISTED_OF_GROUPS.get((cls, key), family.listed.get(key))
    if listed is not None:
        assert listed in ENTRIES
        return
    others = {**COMMON, **family.others, **family.idle, "learning_rate": 0.5, "weight_decay": 0.25}

    def result(group: Mapping[str, Any]) -> dict[str, Any]:
        groups: Sequence[Any] = [(["matrix", "row"], {}), (["big"], group)]
        return agree(*both(cls, family.base, "float32", ("matrix", "row", "big"), groups=groups))

    plain, changed = result({}), result({key: others[key]})
    moved = distance({"big": plain["big"]}, changed)
    assert moved == 0 if key in family.idle else moved > 1e-4
    assert distance({"matrix": plain["matrix"], "row": plain["row"]}, changed) == 0


def test_methods_of_an_optimizer() -> None:
    """They are there, and take Paddle's arguments with Paddle's defaults."""
    ours, theirs = roofstep.Optimizer, PADDLE.Optimizer
    public = {n for n, m in vars(theirs).items() if callable(m) and not n.startswith("_")}
    assert {name for name in public if not hasattr(ours, name)} == ABSENT_METHODS
    differing = {
        name
        for name in public - ABSENT_METHODS
        if arguments(getattr(ours, name)) != arguments(getattr(theirs, name))
    }
    assert differing == {*METHODS}
    assert callable(ours.clear_gradients)  # which Paddle sets on every optimizer


def test_methods_of_schedules() -> None:
    ours, theirs = roofstep.lr.LRScheduler, PADDLE.lr.LRScheduler
    for name in [n for n, m in vars(theirs).items() if callable(m) and not n.startswith("__")]:
        assert arguments(getattr(ours, name)) == arguments(getattr(theirs, name))
    for cls in SCHEDULES:
        step = getattr(roofstep.lr, cls).step
        assert list(arguments(step))[:2] == list(arguments(getattr(PADDLE.lr, cls).step))[:2]


def test_listed_differences_are_on_the_page() -> None:
    listed = [*SIGNATURES.values(), *METHODS.values(), *LISTED_OF_SCHEDULES.values()]
    assert {*listed, "methods-of-paddles-own-machinery"} <= {*ENTRIES}
