"""How counted failures are judged."""

from __future__ import annotations

import pytest

from fedsdn.proxy.ended.record import FAULTS, Ended, Reason, Who
from fedsdn.proxy.process.stats_socket import RECENT_SECONDS
from fedsdn.proxy.stats import Statistics
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.failures import failures


def counted(*ended: Ended) -> dict[str, int]:
    statistics = Statistics(1)
    for one in ended:
        statistics.row(0).ended(one)
    return statistics.totals() | {"now": 10_000}


def ended(reason: Reason, count: int = 1, ago: int = 0) -> Ended:
    return Ended(reason, Who.HERE, count=count, time=10_000 - ago)


def test_none() -> None:
    assert failures(counted()) == "none"


def test_what_vms_do_to_each_other_is_shown_and_the_most_frequent_first() -> None:
    found = counted(ended(Reason.GIVEN_UP, 2), ended(Reason.REFUSED, 85))
    assert failures(found) == "85 refused, 2 given up"


@pytest.mark.parametrize("reason", Reason)
def test_every_fault_is_judged_with_a_remedy_and_nothing_else_is(reason: Reason) -> None:
    found = counted(ended(reason, ago=61))
    if reason not in FAULTS:
        assert failures(found) == f"1 {reason}"
        return
    with pytest.raises(CheckFailedError) as raised:
        failures(found)
    assert raised.value.found == f"1 {reason}; the last {reason} 1 min ago"
    assert raised.value.fix.startswith("fedsdn connections --ended; ")


def test_what_is_over_for_long_is_shown() -> None:
    found = counted(ended(Reason.NO_PATH, 7, ago=RECENT_SECONDS))
    assert failures(found) == "7 no path to peer"


def test_the_last_fault_is_named() -> None:
    found = counted(ended(Reason.OVERLOAD, 9, ago=200), ended(Reason.NO_PATH, 1, ago=100))
    with pytest.raises(CheckFailedError) as raised:
        failures(found)
    assert raised.value.found == "9 overload, 1 no path to peer; the last no path to peer 1 min ago"
    assert raised.value.fix.endswith("; fedsdn uplinks")
