"""Any calls in any order, of any arrays and settings: what the oracle says, or a refusal."""

from __future__ import annotations

import copy
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import draws
import roofstep as rs
from bad_calls import BAD_CALLS
from model import SCHEDULES, Model, Rows
from roofstep import _core
from test_exact import OPTIMIZERS, same_bits
from worlds import World, as_attribute, can_fill

# How many times as many runs, and those at random: `nox -s machine`.
TIMES = int(os.environ.get("ROOFSTEP_MACHINE", "0"))
RUNS, CALLS = 8, 30


class Machine(RuleBasedStateMachine):
    """One optimizer, its oracle, and a twin that has the same numbers in plain arrays.

    The twin steps on one thread by its parameters' own dense gradients; it is never copied and
    never refuses. What both hold is the same to the last bit.
    """

    name: str

    @initialize(data=st.data())
    def construct(self, data: Any) -> None:
        self.data = data
        self.model = draws.model(data, self.name)
        _core.set_isa(data.draw(st.sampled_from(_core.isas()), "ISA"))
        self.temporary = tempfile.TemporaryDirectory()
        self.directory = Path(self.temporary.name)
        self.remembered: list[tuple[Model, list[np.ndarray], Any, Any]] = []
        self.left_behind: list[tuple[np.ndarray, np.ndarray]] = []
        self.real, self.twin = World(), World(plain=True)
        for _ in range(data.draw(st.integers(1, 3), "groups")):
            draws.add_members(data, self.model, draws.group(data, self.model))
        for world in (self.real, self.twin):
            world.construct(self.model)

    def teardown(self) -> None:
        if hasattr(self, "temporary"):
            self.temporary.cleanup()

    @invariant()
    def parameters_are_those_of_the_oracle(self) -> None:
        if hasattr(self, "model"):
            for world in (self.real, self.twin):
                world.check_parameters(self.model)
            for array, before in self.left_behind:
                assert same_bits(array, before), "what was copied has been written"

    def check(self) -> None:
        """All that is kept is the oracle's."""
        for world in (self.real, self.twin):
            world.check(self.model)

    # Steps.

    @rule(data=st.data())
    def give_gradients(self, data: Any) -> None:
        draws.gradients(data, self.model, self.real.parameters)

    def step_both(
        self, step: Callable[[], Any], gradients: Mapping[int, Any], scale: float
    ) -> None:
        """A call that is to step by these gradients, and the same of the twin and the oracle."""
        before = self.model.skipped
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
        self.twin.give(self.model, gradients)
        threads = rs.get_num_threads()
        rs.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            self.twin.optimizer.step(grad_scale=scale)
        rs.set_num_threads(threads)
        self.model.step(gradients, scale)
        first = self.model.skipped > before and not self.model.warned
        self.model.warned |= first
        assert [w.category for w in caught] == [RuntimeWarning] * first
        self.check()
        expected = self.model.norm, self.model.applied
        assert repr(self.real.outcome()) == repr(expected)
        assert not self.model.applied or repr(self.twin.outcome()) == repr(expected)

    def averages_lazily(self, gradients: Mapping[int, Any]) -> bool:
        """Whether a step by these is refused: an average moves in all rows, lazy ones do not."""
        stepped = [m for m in self.model.members if m.index in gradients and m.attr["trainable"]]
        return any(
            isinstance(gradients[m.index], Rows)
            and self.model.groups[self.model.owners[m.index]]["average_decay"] is not None
            for m in stepped
        )

    def refuse(
        self,
        call: Callable[[], Any],
        error: Any,
        look: bool = True,
        also_gradients: bool = True,
    ) -> None:
        """The call fails and leaves all as it is; `look` if nothing is wrong with the settings."""
        before = self.real.snapshot(look, also_gradients)
        with pytest.raises(error):
            call()
        assert self.real.snapshot(look, also_gradients) == before

    @rule(data=st.data(), clear=st.booleans())
    def step(self, data: Any, clear: bool) -> None:
        gradients = self.real.gradients(self.model)
        powers = (1.0, 2.0**16, 0.25, 3.0)
        scale = data.draw(st.sampled_from(powers), "grad_scale")
        bits = self.real.gradient_memory()
        if clear and not self.real.can_clear(self.model):
            self.refuse(lambda: self.real.optimizer.step(clear_grad=True), ValueError)
            return
        if self.averages_lazily(gradients):
            self.refuse(self.real.optimizer.step, ValueError)
            return
        step = lambda: self.real.optimizer.step(clear_grad=clear, grad_scale=scale)  # noqa: E731
        self.step_both(step, gradients, scale)
        cleared = [m.index for m in self.model.members if m.attr["trainable"]] if clear else []
        self.real.check_gradient_memory(bits, cleared)

    @rule(data=st.data())
    def apply_gradients(self, data: Any) -> None:
        """Of some parameters, in any order, by any of their names."""
        chosen = data.draw(st.lists(st.sampled_from(self.model.members), unique_by=id), "pairs")
        pairs, gradients = [], {}
        for m in chosen:
            gradient = draws.gradient(data, self.model, m)
            ways = [f"p{m.index}", self.real.parameters[m.index]]
            ways.append(self.real.parameters[m.index].data)
            pairs.append((ways[data.draw(st.integers(0, 2), "way")], gradient))
            if gradient is not None:
                gradients[m.index] = self.real.as_given(self.model, m, gradient)
        if self.averages_lazily(gradients):
            self.refuse(lambda: self.real.optimizer.apply_gradients(pairs), ValueError)
            return
        bits = self.real.gradient_memory()
        self.step_both(lambda: self.real.optimizer.apply_gradients(pairs), gradients, 1.0)
        self.real.check_gradient_memory(bits, [])

    @rule(data=st.data(), way=st.sampled_from(["list", "dict", "set", "there", "backward"]))
    def minimize(self, data: Any, way: str) -> None:
        """By every kind of a loss, which may leave out some."""
        optimizer, parameters = self.real.optimizer, self.real.parameters
        if way != "there":
            optimizer.clear_grad()
            made = {m.index: draws.gradient(data, self.model, m) for m in self.model.members}
        else:
            made = {i: p.grad for i, p in enumerate(parameters)}
        kept = data.draw(st.sets(st.sampled_from(range(len(parameters)))), "no_grad_set")
        moving = [m for m in self.model.members if m.attr["trainable"] and m.index not in kept]

        def put() -> float:
            for i, gradient in made.items():
                parameters[i].grad = gradient
            return 0.0

        class Loss:
            backward = staticmethod(put)

        loss: Any = {
            "list": lambda: (0.0, [*made.values()]),
            "dict": lambda: (0.0, {f"p{i}": g for i, g in made.items()}),
            "set": put,
            "there": 0.0,
            "backward": Loss(),
        }[way]
        gradients = {
            m.index: self.real.as_given(self.model, m, made[m.index])
            for m in moving
            if made[m.index] is not None
        }
        call = lambda: optimizer.minimize(loss, no_grad_set=[f"p{i}" for i in kept])  # noqa: E731
        if not gradients or self.averages_lazily(gradients):
            # What the loss has put on the parameters goes with it, or is there before.
            self.refuse(call, ValueError, also_gradients=way in ("list", "dict", "there"))
            return
        self.step_both(call, gradients, 1.0)
        if way != "there":
            assert all(p.grad is None for p in parameters)

    @rule(zero=st.booleans())
    def clear_gradients(self, zero: bool) -> None:
        optimizer = self.real.optimizer
        if zero and not can_fill(p.grad for p in self.real.parameters):
            self.refuse(lambda: optimizer.clear_grad(set_to_zero=True), (TypeError, ValueError))
            return
        bits = self.real.gradient_memory()
        held = [i for i, p in enumerate(self.real.parameters) if p.grad is not None]
        optimizer.clear_grad(set_to_zero=zero)
        if zero:
            self.real.check_gradient_memory(bits, held)
        else:
            assert all(p.grad is None for p in self.real.parameters)

    # Settings.

    @rule(data=st.data())
    def change_the_rate(self, data: Any) -> None:
        if self.name == "Rprop":
            self.refuse(lambda: self.real.optimizer.set_lr(0.5), RuntimeError)
        elif self.model.schedule:
            self.refuse(lambda: self.real.optimizer.set_lr(0.5), RuntimeError)
            for world in (self.real, self.twin):
                world.schedule.step()
            self.model.epoch += 1
        else:
            self.model.lr = draws.option(data, self.name, "learning_rate")
            for world in (self.real, self.twin):
                world.optimizer.set_lr(self.model.lr)
        assert self.real.optimizer.get_lr() == self.model.rate()

    @precondition(lambda self: self.name != "Rprop")
    @rule(kind=st.sampled_from([*SCHEDULES]))
    def take_a_schedule(self, kind: str) -> None:
        self.model.schedule, self.model.epoch = kind, 0
        for world in (self.real, self.twin):
            world.schedule = SCHEDULES[kind][0]()
            world.optimizer.set_lr_scheduler(world.schedule)

    @rule(data=st.data())
    def edit_a_group(self, data: Any) -> None:
        place = data.draw(st.sampled_from(range(len(self.model.groups))), "group")
        key, value = draws.setting(data, self.model)
        before = self.model.groups[place]
        self.model.groups[place] = {**before, key: value}
        if key == "batch_num" and not self.model.rings_fit(place):
            self.model.groups[place] = before
            self.real.edit(place, key, value, self.model)
            self.refuse(self.real.optimizer.step, ValueError, look=False)
            self.real.edit(place, key, before[key], self.model)
            return
        for world in (self.real, self.twin):
            world.edit(place, key, value, self.model)

    @rule(data=st.data())
    def edit_a_parameter(self, data: Any) -> None:
        m = data.draw(st.sampled_from(self.model.members), "parameter")
        key, value = draws.attribute(data)
        m.attr[key] = value
        for world in (self.real, self.twin):
            setattr(world.parameters[m.index], key, as_attribute(key, value))

    @rule(data=st.data())
    def add_a_group(self, data: Any) -> None:
        if len(self.model.groups) < 5:
            draws.add_members(data, self.model, draws.group(data, self.model))
            for world in (self.real, self.twin):
                world.add_group(self.model)

    @rule(decay=st.sampled_from([None, 0.0, 0.5, 0.999]))
    def average_weights(self, decay: float | None) -> None:
        for world in (self.real, self.twin):
            world.optimizer.average_weights(decay)
        for settings_ in (self.model.defaults, *self.model.groups):
            settings_["average_decay"] = decay
        if decay is None:
            self.model.settle()

    @rule()
    def evaluate(self) -> None:
        """In the block the parameters are their means, and nothing else may be done."""
        if all(group["average_decay"] is None for group in self.model.groups):
            self.refuse(lambda: self.real.optimizer.averaged().__enter__(), ValueError)
            return
        self.model.settle()
        within = copy.deepcopy(self.model)
        for m in within.members:
            m.p[...] = m.state.get("average", m.p)
        for world in (self.real, self.twin):
            with world.optimizer.averaged():
                world.check_parameters(within)
                with pytest.raises(RuntimeError):
                    world.optimizer.step()
                world.check_parameters(within)
        self.check()

    @rule(count=st.sampled_from([None, 1, 2, 3]))
    def change_the_threads(self, count: int | None) -> None:
        rs.set_num_threads(count)

    @rule(data=st.data())
    def replace_an_array(self, data: Any) -> None:
        """By one of the same kind in other memory, with other values."""
        m = data.draw(st.sampled_from(self.model.members), "parameter")
        new = draws.values(data, m.p.size, m.p.dtype.type)
        m.p = new.reshape([m.p.shape[a] for a in m.axes]).transpose(np.argsort(m.axes))
        for world in (self.real, self.twin):
            world.put(m)

    @rule(data=st.data())
    def do_something_bad(self, data: Any) -> None:
        data.draw(st.sampled_from(BAD_CALLS), "bad")(self, data)

    # Copies and checkpoints.

    @rule()
    def leave_a_shallow_copy(self) -> None:
        """Which has the same parameters, and states of its own."""
        other = copy.copy(self.real.optimizer)
        own = [other._counts, *(a for named in other._states.values() for a in named.values())]
        self.left_behind += [(array, array.copy()) for array in own]

    def leave(self) -> None:
        """From now on nobody writes to the arrays that the optimizer has had."""
        self.left_behind += [(p.data, p.data.copy()) for p in self.real.parameters]

    @rule(by=st.sampled_from([copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]))
    def go_on_with_a_copy(self, by: Callable[[Any], Any]) -> None:
        self.leave()
        self.real.become(by(self.real.optimizer))
        self.model.norm = None
        self.check()

    @rule(by_file=st.booleans())
    def go_on_in_another(self, by_file: bool) -> None:
        """An optimizer with other settings, which takes over all that the old one had."""
        self.leave()
        old, fresh = self.real.optimizer, self.real.fresh(self.model)
        if by_file:
            path = self.directory / "state.safetensors"
            old.save(path, parameters=True)
            for p in fresh.parameters:
                p.data[...] = 7
            fresh.load(path)
        else:
            fresh.set_state_dict(old.state_dict())
        self.real.become(fresh)
        self.model.norm, self.model.applied, self.model.warned = None, None, False
        self.check()

    @rule()
    def remember(self) -> None:
        real, twin = (world.optimizer.state_dict() for world in (self.real, self.twin))
        self.remembered.append((copy.deepcopy(self.model), real, twin))

    @precondition(lambda self: self.remembered)
    @rule(data=st.data())
    def rewind(self, data: Any) -> None:
        """Back to a state from before, perhaps one of other groups or of a schedule."""
        then, real, twin = data.draw(st.sampled_from(self.remembered), "state")
        if then.schedule != self.model.schedule and then.schedule and self.model.schedule:
            return  # whose state it is, is not in it
        if len(then.groups) < len(self.model.groups) or then.schedule != self.model.schedule:
            self.refuse(lambda: self.real.optimizer.set_state_dict(real), ValueError)
            return
        self.real.optimizer.set_state_dict(real)
        self.twin.optimizer.set_state_dict(twin)
        self.model.take_state(then)
        self.check()


def chosen_settings(runs: int = RUNS) -> settings:
    """ROOFSTEP_MACHINE=100 has 100 times as many runs, at random."""
    return settings(
        max_examples=runs * max(TIMES, 1),
        stateful_step_count=CALLS,
        derandomize=not TIMES,
        # Shrinking takes minutes: a failure of the short form is the same each time.
        phases=[Phase.generate, *([Phase.shrink] if TIMES else [])],
        print_blob=True,
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],
    )


# The stand-in for AveragedSGD carries over a rate that the oracle knows for one rate alone.
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "AveragedSGD"])
def test_any_calls_in_any_order(name: str) -> None:
    run_state_machine_as_test(type(name, (Machine,), {"name": name}), settings=chosen_settings())
