"""State dicts of Paddle, read and written: its names, its powers of beta for our counts."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from roofstep.checkpoint import entries
from roofstep.checkpoint.entries import Entry, Sorted
from roofstep.plan import Group, Keeps
from roofstep.types import Array

# `paddle.load` takes this out of its files, pickle does not.
_BOOKKEEPING = "StructuredToParameterName@@"
_MOST_UPDATES = 10**8  # beyond, a beta cannot be the one that gave the power
_BLOCK = 2**16


@dataclass(frozen=True)
class _Form:
    """What Paddle keeps of a parameter beside the states, by accumulator."""

    powers: Mapping[str, str | float] = field(default_factory=dict)  # of a setting, or a constant
    count: str | None = None
    unused: tuple[str, ...] = ()  # follow from the rest
    zeros: Mapping[str, str] = field(default_factory=dict)  # kept in vain, unless with this option

    def required(self, kept: Keeps) -> tuple[str, ...]:
        """What must be there of a parameter that has been stepped."""
        states = (s for s in kept.states if s != "average")  # which begins with the next update
        return (*states, *self.powers, *filter(None, [kept.number, self.count]))


_UNCOUNTED = _Form()
_ADAM = _Form({"beta1_pow_acc": "beta1", "beta2_pow_acc": "beta2"})
_FORMS = {
    "sgd": _UNCOUNTED,
    "momentum": _UNCOUNTED,
    "nesterov": _UNCOUNTED,
    "adagrad": _UNCOUNTED,
    "adadelta": _UNCOUNTED,
    "rmsprop": _Form(zeros={"mean_grad": "centered=True"}),
    "rmsprop_centered": _UNCOUNTED,
    "rprop": _UNCOUNTED,
    "adam": _ADAM,
    "amsgrad": _ADAM,
    "lamb": _ADAM,
    "adamax": _Form({"beta1_pow_acc": "beta1"}),
    "radam": _Form({"beta1_pow": "beta1", "beta2_pow": "beta2"}, unused=("rho",)),
    "nadam": _Form({"beta2_pow": "beta2", "momentum_decay_pow": 0.96}),
    "asgd": _Form(count="m"),
}


def made(saved: Mapping[str, Any], rules: Mapping[str, tuple[str, Group]]) -> bool:
    """Whether Paddle made these entries: it has these rules, and does not save the steps."""
    steps = entries.owners({name: ["step"] for name in rules})
    ours = any(entries.owner(entry, steps) for entry in saved)
    return not ours and all(rule in _FORMS for rule, _ in rules.values())


def sort(
    saved: Mapping[str, Any],
    keeps: Mapping[str, Keeps],
    rules: Mapping[str, tuple[str, Group]],
    optimizer_name: str | None,
    problems: list[str],
) -> Sorted:
    """The entries by parameter and by our own parts.

    Args:
        saved: the entries.
        keeps: what is kept of each parameter.
        rules: the rule and the group of each parameter.
        optimizer_name: Paddle puts it between the names of a parameter and of a state.
        problems: where mismatches are added, as sentences.
    """
    saved = {entry: value for entry, value in saved.items() if entry != _BOOKKEEPING}
    if saved.pop("master_weights", None) is not None:
        problems.append(
            "'master_weights' is there: the state is that of float16 or bfloat16 parameters"
        )
    forms = {name: _FORMS[rule] for name, (rule, _) in rules.items()}
    required = {name: form.required(keeps[name]) for name, form in forms.items()}
    optional = {name: (*form.unused, *form.zeros) for name, form in forms.items()}

    def fitting(middle: str) -> int:
        owned = entries.owners(required, middle)
        return sum(entries.owner(entry, owned) is not None for entry in saved)

    middle = max("", f"_{optimizer_name}" if optimizer_name else "", key=fitting)
    found = entries.sort(saved, required, problems, optional, middle)
    return {
        name: _translated(named, forms[name], keeps[name], rules[name][1], problems)
        for name, named in found.items()
    }


def write(
    saved: Mapping[str, Any],
    keeps: Mapping[str, Keeps],
    rules: Mapping[str, tuple[str, Group]],
    optimizer_name: str | None,
    counter: int,
) -> dict[str, Array]:
    """What Paddle would have saved in the place of our own entries.

    Args:
        saved: our entries.
        keeps: what is kept of each parameter.
        rules: the rule and the group of each parameter.
        optimizer_name: stands between the names of a parameter and of a state.
        counter: stands at the end.

    Raises:
        ValueError: Paddle has no such rule.
    """
    middle = f"_{optimizer_name}" if optimizer_name else ""
    written: dict[str, Array] = {}
    for name, (rule, group) in rules.items():
        if rule not in _FORMS:
            raise ValueError(
                f"optimizer: expected one that Paddle has too, got one of the rule {rule!r}; save "
                f"state_dict(), which roofstep reads"
            )
        if (count := saved.get(entries.key(name, "step"))) is None:
            continue
        own = {part: saved[entries.key(name, part)] for part in entries.parts(keeps)[name]}
        for part, array in _entries(_FORMS[rule], keeps[name], own, int(count), group).items():
            written[f"{name}{middle}_{part}_{counter}"] = array
    return written


def _entries(
    form: _Form, kept: Keeps, own: Mapping[str, Array], count: int, group: Group
) -> dict[str, Array]:
    """One parameter's, in the order in which Paddle makes them where that is known."""
    found = {s: np.array(own[s], order="C") for s in kept.states if s != "average"}
    if not found:
        return {}
    like = next(array for s, array in found.items() if kept.states[s].slots is None)
    for part, setting in form.powers.items():
        beta = float(group[setting]) if isinstance(setting, str) else setting
        once = part.endswith("_acc")
        power = _power(like.dtype.name, beta if once else 1.0, beta, count)
        found[part] = np.full((1,) if once else like.shape, power, like.dtype)
    if kept.number:
        found[kept.number] = np.full(like.shape, own[kept.number], like.dtype)
    for part in form.unused:  # of RAdam
        power = float(group["beta2"]) ** count
        found[part] = np.full(like.shape, count * power / (1 - power), like.dtype)
    for part in form.zeros:
        found.setdefault(part, np.zeros_like(like))
    if form.count:
        found[form.count] = np.array([count], np.int64)
    return found


@functools.lru_cache(maxsize=1024)  # parameters are stepped together
def _power(dtype: str, begin: float, beta: float, count: int) -> float:
    """What an accumulator holds after so many updates; see `_updates`."""
    number = np.dtype(dtype).type
    power, factor = number(begin), number(beta)
    with np.errstate(under="ignore"):
        for _ in range(count):
            last, power = power, power * factor
            if power == last:
                break
    return float(power)


def _translated(
    named: Mapping[str, Entry], form: _Form, kept: Keeps, group: Group, problems: list[str]
) -> dict[str, Entry]:
    ours = {part: entry for part, entry in named.items() if part in kept.states}
    if kept.number and kept.number in named:
        number = _one(named[kept.number], problems)
        ours[kept.number] = named[kept.number]._replace(value=1.0 if number is None else number)
    if form.count and form.count in named:
        ours["step"] = named[form.count]
    else:  # where Paddle keeps no count, its update makes no use of one: 1 means at least one
        powers = {p: s for p, s in form.powers.items() if p in named}
        ours["step"] = Entry("step", _count(named, powers, kept, group, problems))
    for part, option in form.zeros.items():
        if part in named and np.any(entries.as_array(named[part], problems)):
            problems.append(f"{named[part].key!r} is not 0; construct with {option}")
    return ours


def _one(entry: Entry, problems: list[str]) -> np.floating[Any] | None:
    """The number of which all of an accumulator is made; None if that is empty, or no such one."""
    array = entries.as_array(entry, problems)
    if array is None or not array.size:
        return None
    if array.dtype.name not in ("float32", "float64") or not (array == array.flat[0]).all():
        problems.append(f"{entry.key!r} is not one number of float32 or float64 throughout")
        return None
    one: np.floating[Any] = array.flat[0]
    return one


def _count(
    named: Mapping[str, Entry],
    powers: Mapping[str, str | float],
    kept: Keeps,
    group: Group,
    problems: list[str],
) -> int:
    """The updates after which the accumulators hold these powers; 1 if that cannot be told."""
    counts, certain, read = [1], set(), []
    for part, setting in powers.items():
        power = _one(named[part], problems)
        if power is None:
            continue
        beta = float(group[setting]) if isinstance(setting, str) else setting
        begin = beta if part.endswith("_acc") else 1.0
        found = _updates(power.item(), power.dtype.name, begin, beta)
        what = f"{setting}={beta}" if isinstance(setting, str) else f"{beta}"
        if found is None:
            problems.append(
                f"{named[part].key!r} holds {power}, which is no power of {what}; "
                f"construct with the betas that the state was saved with"
            )
            return 1
        count, stands = found
        counts.append(count)
        if not stands:
            certain.add(count)
        read.append(f"{named[part].key!r} is that of {count} updates with {what}")
    # A power that no longer changes tells the least count. Where all do, none can be told from
    # another by its result, unless the rule carries a number on from step to step.
    if not certain <= {max(counts)} or (kept.number and read and not certain):
        problems.append(
            f"{', '.join(read)}: from these follows no count; "
            f"construct with the betas that the state was saved with"
        )
    return max(counts)


@functools.lru_cache(maxsize=1024)  # parameters are stepped together
def _updates(power: float, dtype: str, begin: float, beta: float) -> tuple[int, bool] | None:
    """The least count of updates after which an accumulator holds this power.

    Paddle multiplies the accumulator by beta at every update, in its dtype, and some of its kernels
    have beta in float32. The product is made here again, to find the very number; a machine that
    rounds otherwise may be off a little.

    Args:
        power: what it holds.
        dtype: of the accumulator.
        begin: what it began with.
        beta: the factor.

    Returns:
        The count, at least 1, and whether later updates leave the power as it is; None if the
        accumulator never held it.
    """
    if not 0 <= power <= 1:
        return None
    if beta and math.log(max(power, 5e-324)) / math.log(beta) > _MOST_UPDATES:
        return None
    nearest: tuple[float, int, bool] | None = None
    for factor in dict.fromkeys((beta, float(np.float32(beta)))):
        for held, count, stands in _around(power, np.dtype(dtype).type, begin, factor):
            vanished = stands and max(held, power) < np.finfo(dtype).tiny
            off = 0.0 if held == power or vanished else abs(held - power) / max(held, power)
            # A factor that was rounded to 1 stands at once, and tells nothing.
            if (vanished or not stands) and (nearest is None or off < nearest[0]):
                nearest = (off, count, stands)
    if nearest is None or nearest[0] > min(1e-3, (1 - beta) / 4):
        return None
    return nearest[1:]


def _around(
    power: float, number: type[np.floating[Any]], begin: float, factor: float
) -> list[tuple[float, int, bool]]:
    """The products next to a power, each with its count of updates and whether it stays."""
    count, last = 0, number(begin)
    while True:
        factors = np.full(_BLOCK, factor, number)
        factors[0] = last
        with np.errstate(under="ignore"):
            products = np.multiply.accumulate(factors)  # after count, count + 1, ... updates
        reached = products <= power
        if reached[1:].any():
            at = 1 + int(reached[1:].argmax())
        elif products[-1] == products[-2]:
            at = max(1, int((products == products[-1]).argmax()))
        else:
            count, last = count + _BLOCK - 1, products[-1]
            continue
        with np.errstate(under="ignore"):
            return [
                (float(products[i]), count + i, bool(products[i] * number(factor) == products[i]))
                for i in (at - 1, at)
                if count + i >= 1
            ]
