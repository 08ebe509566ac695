"""One lab for all tests that only use it, and names for those that build their own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from fedsdn.lab import build
from fedsdn.lab.lab import Lab

TWO_SITE = Path(__file__).parents[2] / "topo" / "two-site.yaml"
SITE_UP = (sys.executable, "-m", "fedsdn.cli.main", "site", "up")
_NUMBERS = count(1)

# A shell's background job, as these tests may be, ignores SIGINT, and what it starts would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Return a two-site lab that is up; a test that changes it changes it back."""
    name = f"test-{os.getpid()}"
    try:
        yield build.up(TWO_SITE, name)
    finally:
        build.down(name)


@pytest.fixture
def lab_name() -> Iterator[str]:
    """Return a name that no other lab has; what is called so is removed afterwards."""
    name = f"test-{os.getpid()}-{next(_NUMBERS)}"
    yield name
    build.down(name)


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    """Run a test for each IP version."""
    number: int = request.param
    return number
