"""A bridge's news of its flows: ONF's flow monitor as Open vSwitch speaks it with OpenFlow 1.3.

Open vSwitch tells whoever asked of each flow that is added, changed or deleted, by whomever, before
it answers the request that did it. os-ken knows the request, but writes an empty match as Open
vSwitch refuses it, and does not read what comes back. No I/O.

Sources: ONF extension 187; ``struct nx_flow_update_full`` and ``enum nx_flow_monitor_flags`` in
include/openflow/nicira-ext.h, ``handle_flow_monitor_request`` in ofproto/ofproto.c and
``ofmonitor_*`` in ofproto/connmgr.c of Open vSwitch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from fedsdn.openflow.wire import WireFlow, read_match, written_match

ONF = 0x4F4E4600
"""The Open Networking Foundation's experimenter identifier."""

FLOW_MONITOR = 1870
"""Type of the request, and of all that it causes (``ONFMP_FLOW_MONITOR``)."""


class Notice(IntEnum):
    """Messages of type experimenter about the monitor."""

    PAUSED = 1871
    """More was to be told than is taken: additions and changes are held back, deletions are told.

    What was held back comes in one piece, as it then is, before ``RESUMED``.
    """
    RESUMED = 1872


class Change(IntEnum):
    """What has become of a flow (``enum nx_flow_update_event``)."""

    ADDED = 0
    DELETED = 1
    MODIFIED = 2
    ABBREVIATED = 3
    """A change by whoever monitors: not told if he wants his own in full."""


@dataclass(frozen=True, slots=True)
class Update:
    """One change; of a deleted flow the instructions are those that it had."""

    change: Change
    flow: WireFlow


_ANY_PORT = 0xFFFFFFFF
_INITIAL, _ADD, _DELETE, _MODIFY, _ACTIONS, _OWN = (1 << bit for bit in range(6))
_ALL = _INITIAL | _ADD | _DELETE | _MODIFY | _ACTIONS | _OWN
_REQUEST = struct.Struct("!IHHIB3x")
_EMPTY_MATCH = written_match(b"")
_HEADER = struct.Struct("!HH")
_UPDATE = struct.Struct("!HHHHHHHBxQ")


def notice(experimenter: int, kind: int) -> Notice | None:
    """Tell which notice a message of type experimenter is; None if it is another one."""
    return Notice(kind) if experimenter == ONF and kind in list(Notice) else None


def request(tables: Iterable[int]) -> bytes:
    """Body of the request for all flows of some tables as they are, and for all their changes.

    A monitor for each table: of the others, where another owner may have any number of flows,
    nothing is told.
    """
    return b"".join(
        _REQUEST.pack(table, _ALL, len(_EMPTY_MATCH), _ANY_PORT, table) + _EMPTY_MATCH
        for table in tables
    )


def updates(body: bytes) -> Iterator[Update]:
    """Read the changes in the body of one message.

    Raises:
        ValueError: it is not as Open vSwitch writes it.

    """
    try:
        yield from _updates(body)
    except (IndexError, struct.error) as error:
        raise ValueError(f"an update that is cut off: {error}") from error


def _updates(body: bytes) -> Iterator[Update]:
    at = 0
    while at < len(body):
        length, event = _HEADER.unpack_from(body, at)
        if length < _HEADER.size or length % 8 or at + length > len(body):
            raise ValueError(f"an update of {length} bytes at byte {at} of {len(body)}")
        change = Change(event)
        if change is not Change.ABBREVIATED:
            yield Update(change, _flow(body[at : at + length]))
        at += length


def _flow(update: bytes) -> WireFlow:
    _, _, _, priority, _, hard_timeout, _, table, cookie = _UPDATE.unpack_from(update)
    match, end = read_match(update, _UPDATE.size)
    if end > len(update):
        raise ValueError(f"a match of {end - _UPDATE.size} bytes in an update of {len(update)}")
    return WireFlow(table, priority, match, cookie, update[end:], hard_timeout)
