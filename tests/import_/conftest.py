"""Fixtures of the importer's tests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SECONDS, MIB = 20.0, 300  # for each file, most of which take milliseconds


@pytest.fixture
def within_bounds() -> Iterator[None]:
    """Holds a test to CPU time and, where the system tells, to memory."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def peak() -> int:
        lines = status.read_text().splitlines() if clear.exists() else []
        return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM")), 0)

    if clear.exists():
        clear.write_text("5")
    before, started = peak(), time.process_time()
    yield
    assert time.process_time() - started < SECONDS
    assert peak() - before < MIB
