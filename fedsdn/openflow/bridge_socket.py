"""The application's way to its bridge: the bridge's own management socket.

Open vSwitch speaks OpenFlow at a Unix socket of every bridge, as ovs-ofctl(8) uses it. A client
there is none of the bridge's controllers, so nothing of the bridge depends on it. A controller
would change the bridge: with the first that is set and the last that is removed Open vSwitch
deletes all flows, and again when none has answered for a while in fail mode standalone
(``connmgr_set_controllers`` in ofproto/connmgr.c, ofproto/fail-open.c of Open vSwitch 3.1).
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fedsdn.errors import FedsdnError

RETRY_SECONDS = 1.0
"""How long after a failure, or after the end of a connection, the next one is tried."""

LIST_CONNECTIONS = ("ss", "--no-header", "--unix", "--processes", "state", "established")
"""What prints the host's Unix sockets for ``is_connected``; as root."""

_DIRECTORY = Path("/run/openvswitch")
_APPLICATION = "osken-manager"
_ENDS = re.compile(r"(\S+) (\d+) \* (\d+)")


def management_socket(bridge: str) -> Path:
    """Return the path of a bridge's management socket (ovs-vswitchd(8))."""
    return _DIRECTORY / f"{bridge}.mgmt"


Serve = Callable[[socket.socket, str], None]
"""Is given a connection and the bridge's name, and returns when the connection has ended."""


class BridgeConnection:
    """Keeps one OpenFlow connection to a bridge; only one process of a host can have it."""

    def __init__(self, bridge: str) -> None:
        """Prepare; ``keep`` connects.

        Raises:
            FedsdnError: another application on this host has this bridge.

        """
        self.bridge = bridge
        """The bridge that is, or is to be, connected."""
        self._reservation = _reserve(bridge)
        self._stream: socket.socket | None = None
        self._changing = threading.Lock()
        self._never = threading.Event()

    def keep(self, serve: Serve) -> None:
        """Connect, and connect again, for ever."""
        while True:
            with self._changing:
                bridge = self.bridge
                stream = self._stream = _Stream(socket.AF_UNIX)
            try:
                stream.connect(str(management_socket(bridge)))
            except OSError:
                stream.close()
            else:
                serve(stream, bridge)
            self._never.wait(RETRY_SECONDS)

    def go_over(self, bridge: str) -> None:
        """End the connection; the next one is to another bridge. For any thread.

        Raises:
            FedsdnError: another application on this host has this bridge.

        """
        reservation = _reserve(bridge)
        with self._changing:
            self._reservation.close()
            self._reservation, self.bridge = reservation, bridge
            if self._stream is not None:
                with suppress(OSError):  # not connected, or not any more
                    self._stream.shutdown(socket.SHUT_RDWR)


def _reserve(bridge: str) -> socket.socket:
    # An abstract name (unix(7)) belongs to the host's network namespace, and ends with us.
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0fedsdn-app-{bridge}")
    except OSError as error:
        lock.close()
        raise FedsdnError(
            f"another application already steers bridge {bridge}: stop it first "
            "(systemctl stop fedsdn-app)"
        ) from error
    return lock


class _Stream(socket.socket):
    """A Unix socket for os-ken, which takes every connection for one of TCP."""

    def setsockopt(self, *arguments: object) -> None:
        """Leave out TCP_NODELAY, the only option that os-ken sets."""


def is_connected(listed: str, bridge: str) -> bool:
    """Whether an application is connected to a bridge, from what ``LIST_CONNECTIONS`` prints."""
    ends = [(line, found) for line in listed.splitlines() if (found := _ENDS.search(line))]
    name = management_socket(bridge).name
    bridges = {found[2] for _, found in ends if found[1].endswith(f"/{name}")}
    return any(found[3] in bridges and f'"{_APPLICATION}"' in line for line, found in ends)
