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


class BridgeConnection:
    """Keeps one OpenFlow connection to a bridge; only one process of a host can have it."""

    def __init__(self, bridge: str, serve: Callable[[socket.socket, str], None]) -> None:
        """Prepare; ``serve`` is given every connection, with a name for it, until that ends.

        Raises:
            FedsdnError: another application on this host has this bridge.

        """
        self._path = management_socket(bridge)
        self._serve = serve
        self._never = threading.Event()
        # An abstract name (unix(7)) belongs to the host's network namespace, and ends with us.
        self._lock = socket.socket(socket.AF_UNIX)
        try:
            self._lock.bind(f"\0fedsdn-app-{bridge}")
        except OSError as error:
            raise FedsdnError(
                f"another application already steers bridge {bridge}: stop it first "
                "(systemctl stop fedsdn-app)"
            ) from error

    def __call__(self) -> None:
        """Connect, and connect again, for ever."""
        while True:
            stream = _Stream(socket.AF_UNIX)
            try:
                stream.connect(str(self._path))
            except OSError:
                stream.close()
            else:
                self._serve(stream, str(self._path))
            self._never.wait(RETRY_SECONDS)


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
