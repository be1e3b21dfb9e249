"""What every test leaves as it was: the threads, the ISA and the fetching of the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import roofstep
from roofstep import _core


@pytest.fixture(autouse=True)
def process_settings() -> Iterator[None]:
    """Threads are the default number in each test, and the ISA that of the process."""
    isa, ahead = _core.isa(), _core.fetch_ahead()
    yield
    roofstep.set_num_threads(None)
    _core.set_isa(isa)
    _core.set_fetch_ahead(ahead)
