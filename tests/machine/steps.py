"""What every machine of test_machine.py holds after a call, and the calls that step."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

import draws
import roofstep as rs
from model import Model, Rows
from roofstep import _core
from test_exact import same_bits
from worlds import World, can_fill


class Steps(RuleBasedStateMachine):
    """One optimizer, its oracle, and a twin that has the same numbers in plain arrays.

    The twin steps on one thread by its parameters' own dense gradients; it is never copied and
    never refuses. What both hold is the same to the last bit.
    """

    name: str

    @initialize(data=st.data())
    def construct(self, data: Any) -> None:
        self.model = draws.model(data, self.name)
        _core.set_isa(data.draw(st.sampled_from(_core.isas()), "ISA"))
        self.threads: int | None = None
        rs.set_num_threads(None)
        self.temporary = tempfile.TemporaryDirectory()
        self.directory = Path(self.temporary.name)
        self.remembered: list[tuple[Model, Any, Any]] = []
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
        rs.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            self.twin.optimizer.step(grad_scale=scale)
        rs.set_num_threads(self.threads)
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

    def settle(self) -> None:
        """What settings were edited to is in force: what an option kept that is off is gone."""
        for world in (self.real, self.twin):
            world.optimizer.state_dict()
        self.model.settle()

    def refuse(
        self,
        call: Callable[[], Any],
        error: Any,
        look: bool = True,
        also_gradients: bool = True,
    ) -> None:
        """The call fails and leaves all as it is; `look` if nothing is wrong with the settings."""
        if look:
            self.settle()
        before = self.real.snapshot(look, also_gradients)
        with pytest.raises(error):
            call()
        assert self.real.snapshot(look, also_gradients) == before

    @rule(data=st.data(), clear=st.booleans())
    def step(self, data: Any, clear: bool) -> None:
        if clear and data.draw(st.booleans(), "can be cleared"):
            draws.gradients(data, self.model, self.real.parameters, clearable=True)
            held = [p.grad for p in self.real.parameters if p.grad is not None and p.grad.size]
            if held and self.model.skip and data.draw(st.booleans(), "not finite"):
                held[-1][...] = np.nan
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
