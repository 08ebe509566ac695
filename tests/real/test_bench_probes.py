"""The bench of probes: the real monitor and a far end that answers, in namespaces of their own."""

from __future__ import annotations

import pytest

from fedsdn.bench.probes import measure

pytestmark = pytest.mark.real


def test_all_paths_come_up_and_the_costs_are_measured() -> None:
    found = measure(3, 1.0)
    assert found.paths == 12
    assert found.idle > 0
    assert found.busy > 0
    assert found.idle_probes > 0
    assert found.datagram > 0
