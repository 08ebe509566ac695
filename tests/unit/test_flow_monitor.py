"""News of flows, as Open vSwitch 3.1 has written them; cut off and damaged ones are refused."""

from __future__ import annotations

import random

import pytest

from fedsdn.openflow.flow_monitor import Change, Notice, Update, notice, request, updates
from fedsdn.openflow.wire import WireFlow
from tests.unit.fake_bridge import written_update

MATCH = "80000a0208008000140106800017080a010000ffffff00"  # TCP from 10.1.0.0/24, sorted
HOOK = "00011e040000000080000a0208008000140106"  # TCP with reg15=0
CT = "0004002000000000ffff0018000023200023000000000000fed5730000000000"
RESUBMIT = "0004001800000000ffff001000002320000efff86a000000"

# What was told of: ovs-ofctl add-flow cookie=0x1234,table=110,priority=10,tcp,nw_src=10.1.0.0/24,
# actions=ct(table=115,zone=65237); mod-flows table=110,actions=drop; add-flow hard_timeout=1,
# table=0,priority=20000,tcp,reg15=0,actions=resubmit(,106); del-flows.
ADDED = (
    "005800000000000a00000000001b6e0000000000000012340001001b80000a020800800017080a010000ffffff00"
    "800014010600000000000004002000000000ffff0018000023200023000000000000fed5730000000000"
)
MODIFIED = (
    "003800020000000a00000000001b6e0000000000000012340001001b80000a020800800017080a010000ffffff00"
    "80001401060000000000"
)
TIMED = (
    "0048000000004e20000000010017000000000000000000000001001780000a020800800014010600011e04000000"
    "00000004001800000000ffff001000002320000efff86a000000"
)
DELETED = (
    "0048000100024e20000000010017000000000000000000000001001780000a020800800014010600011e04000000"
    "00000004001800000000ffff001000002320000efff86a000000003800010002000a00000000001b6e0000000000"
    "000012340001001b80000a020800800017080a010000ffffff0080001401060000000000"
)
ABBREVIATED = "0008000300000007"

TENANT = WireFlow(110, 10, bytes.fromhex(MATCH), 0x1234, bytes.fromhex(CT))
CHANGED = TENANT._replace(instructions=b"")
TO_REMOTE = WireFlow(0, 20000, bytes.fromhex(HOOK), 0, bytes.fromhex(RESUBMIT), hard_timeout=1)


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ("", []),
        (ADDED, [Update(Change.ADDED, TENANT)]),
        (MODIFIED, [Update(Change.MODIFIED, CHANGED)]),
        (TIMED, [Update(Change.ADDED, TO_REMOTE)]),
        (DELETED, [Update(Change.DELETED, TO_REMOTE), Update(Change.DELETED, CHANGED)]),
        (ABBREVIATED + ADDED, [Update(Change.ADDED, TENANT)]),
    ],
)
def test_what_open_vswitch_tells_is_read(told: str, found: list[Update]) -> None:
    assert list(updates(bytes.fromhex(told))) == found


def test_a_request_has_a_monitor_with_an_empty_match_for_each_table() -> None:
    """As Open vSwitch takes it: ``ovs-ofctl monitor BRIDGE watch:`` asks the same of one table."""
    one, other = (
        bytes.fromhex(f"000000{table:02x}003f0008ffffffff{table:02x}0000000001000400000000")
        for table in (0, 110)
    )
    assert request([0, 110]) == one + other


def test_notices_are_told_from_other_messages() -> None:
    assert notice(0x4F4E4600, 1871) is Notice.PAUSED
    assert notice(0x4F4E4600, 1872) is Notice.RESUMED
    assert notice(0x4F4E4600, 2300) is None
    assert notice(0x2320, 1871) is None


def test_what_is_cut_off_or_damaged_is_an_error_and_nothing_else() -> None:
    whole = bytes.fromhex(ADDED)
    for end in range(1, len(whole)):
        with pytest.raises(ValueError, match=r"."):
            list(updates(whole[:end]))
    draw = random.Random(20)  # noqa: S311 -- to be repeated, not secret
    for _ in range(5000):
        damaged = bytearray(bytes.fromhex(DELETED))
        for _ in range(draw.randrange(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            found = list(updates(bytes(damaged)))
        except ValueError:
            continue
        assert all(isinstance(one.flow, WireFlow) for one in found)


def test_the_fake_bridge_writes_as_open_vswitch_does() -> None:
    """But for the order of a match's fields, which has no meaning."""
    [told] = updates(written_update(Change.ADDED, TENANT))
    assert told == Update(Change.ADDED, TENANT)
    assert len(written_update(Change.ADDED, TENANT)) == len(bytes.fromhex(ADDED))
