"""The cost of deleting an MPTCP endpoint with many subflows, and of adding it again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from fedsdn.bench.cases import Control, Kind
from fedsdn.bench.live import live_connections
from fedsdn.bench.rig import Rig
from fedsdn.bench.subflows import reading

LIMIT_SECONDS = 20.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Deletion:
    """The deletion of one endpoint that ``subflows`` of ``connections`` connections used.

    ``gone_ms`` is the time from the loss of the uplink's port until no subflow was left,
    ``back_ms`` from the port's return until there were as many as before, with the hold time; None:
    not within ``LIMIT_SECONDS``. ``returned`` is how many there were then.
    """

    connections: int
    subflows: int
    gone_ms: float | None
    back_ms: float | None
    returned: int
    errors: tuple[str, ...]


def measure(rig: Rig, connections: int, uplink: int) -> Deletion:
    """Set the first site's port of an uplink down under connections, and up again.

    Raises:
        FedsdnError: the connections cannot be opened, or the lab does not obey.

    """
    rig.put(Control.APPLICATION)
    view = rig.sites[0]
    address = rig.address(view, uplink)

    def count() -> int:
        return subflows.count(address)

    with reading(view) as subflows, live_connections(rig, connections) as live:
        before = _settled(count)
        start = time.monotonic()
        rig.lose(Kind.NEAR_PORT, uplink, "upload")
        gone = _ms_until(lambda: count() == 0, start)
        start = time.monotonic()
        rig.restore(Kind.NEAR_PORT, uplink, "upload")
        back = _ms_until(lambda: count() >= before, start)
        returned = count()
        errors = tuple(live.finish())
    return Deletion(connections, before, gone, back, returned, errors)


def _settled(count: Callable[[], int]) -> int:
    """Wait until the number of subflows grows no more, and return it."""
    last, since = count(), time.monotonic()
    deadline = since + LIMIT_SECONDS
    while time.monotonic() < min(since + 1.0, deadline):
        time.sleep(_POLL_SECONDS)
        if (found := count()) != last:
            last, since = found, time.monotonic()
    return last


def _ms_until(condition: Callable[[], bool], start: float) -> float | None:
    while time.monotonic() < start + LIMIT_SECONDS:
        if condition():
            return (time.monotonic() - start) * 1e3
        time.sleep(_POLL_SECONDS)
    return None
