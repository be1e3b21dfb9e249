"""Any calls in any order, of any arrays and settings: what the oracle says, or a refusal."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    precondition,
    rule,
    run_state_machine_as_test,
)

import draws
import roofstep as rs
from bad_calls import BAD_CALLS
from model import SCHEDULES
from steps import Steps
from test_exact import OPTIMIZERS
from worlds import as_attribute

# How many times as many runs, and those at random: `nox -s machine`.
TIMES = int(os.environ.get("ROOFSTEP_MACHINE", "0"))
RUNS, CALLS = 6, 30


class Machine(Steps):
    """The steps, and between them every other call."""

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
        self.threads = count
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
