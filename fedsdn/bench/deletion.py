"""What it costs to delete an MPTCP endpoint that many connections use.

As a program (``python -m fedsdn.bench.deletion NAMESPACE ADDRESS``) it does that on a site's host:
it deletes the endpoint, says how long the call took, and adds it again when its standard input
ends.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from fedsdn.bench.cases import Control
from fedsdn.bench.live import live_connections
from fedsdn.bench.rig import Rig
from fedsdn.bench.subflows import count_from
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.uplinks.endpoints import Endpoints

_PROGRAM = (sys.executable, "-m", "fedsdn.bench.deletion")
LIMIT_SECONDS = 20.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Deletion:
    """The deletion of one endpoint that ``subflows`` of ``connections`` connections used.

    ``delete_ms`` is the duration of the netlink request, ``gone_ms`` the time from its start until
    no subflow was left, ``back_ms`` from the start of adding the endpoint again until there were as
    many as before; None: not within ``LIMIT_SECONDS``. ``returned`` is how many there were then.
    """

    connections: int
    subflows: int
    delete_ms: float
    gone_ms: float | None
    add_ms: float
    back_ms: float | None
    returned: int
    errors: tuple[str, ...]


def measure(rig: Rig, connections: int, uplink: int) -> Deletion:
    """Delete the first site's endpoint of an uplink by hand, the application being stopped.

    Raises:
        FedsdnError: the connections cannot be opened, or the kernel refuses.

    """
    rig.put(Control.KERNEL)
    view = rig.sites[0]
    address = rig.address(view, uplink)

    def count() -> int:
        return count_from(view, address)

    with live_connections(rig, connections) as live:
        before = _settled(count)
        command = (*_PROGRAM, PROXY_NAMESPACE, str(address))
        with view.shell.started(*command) as program:
            start, deleted = _times(program.line())
            gone = _ms_until(lambda: count() == 0, start)
            added_start, added = _times(program.finish())
        back = _ms_until(lambda: count() >= before, added_start)
        returned = count()
        errors = tuple(live.finish())
    return Deletion(
        connections=connections,
        subflows=before,
        delete_ms=deleted * 1e3,
        gone_ms=gone,
        add_ms=added * 1e3,
        back_ms=back,
        returned=returned,
        errors=errors,
    )


def _times(line: str) -> tuple[float, float]:
    if not line:
        raise FedsdnError("the endpoint was not deleted: see 'fedsdn site show' on such a lab")
    said = json.loads(line)
    return said["start"], said["seconds"]


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


def _timed(action: Callable[[], object]) -> None:
    start = time.monotonic()
    action()
    seconds = time.monotonic() - start
    print(json.dumps({"start": start, "seconds": seconds}), flush=True)


def main() -> None:
    """Delete, wait, add."""
    namespace, address = sys.argv[1:]
    with Endpoints(namespace) as endpoints:
        every = list(endpoints.read())
        rest = [endpoint for endpoint in every if str(endpoint.address) != address]
        _timed(lambda: endpoints.apply(rest))
        try:
            sys.stdin.read()
        finally:
            _timed(lambda: endpoints.apply(every))


if __name__ == "__main__":
    main()
