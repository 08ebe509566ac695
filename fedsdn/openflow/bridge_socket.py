"""The application's way to its bridge: the bridge's own management socket.

Open vSwitch speaks OpenFlow at a Unix socket of every bridge, as ovs-ofctl(8) uses it. A client
there is none of the bridge's controllers, so nothing of the bridge depends on it. A controller
would change the bridge: with the first that is set and the last that is removed Open vSwitch
deletes all flows, and again when none has answered for a while in fail mode standalone
(``connmgr_set_controllers`` in ofproto/connmgr.c, ofproto/fail-open.c of Open vSwitch 3.1).
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fedsdn.appearance import Appearance

_LOG = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""How long after a failure the next connection is tried if nothing happens meanwhile; a connection
that ended sooner has failed."""

_SOON_SECONDS = 0.001
"""How long after the first failure: a server's socket appears a moment before it listens."""

LIST_CONNECTIONS = ("ss", "--no-header", "--unix", "--processes", "state", "established")
"""What prints the host's Unix sockets for ``is_connected``; as root."""

_PATIENCE_SECONDS = 0.1
"""A trouble that lasts longer is logged; while Open vSwitch restarts there is one after another."""

_DIRECTORY = Path("/run/openvswitch")
_APPLICATION = "osken-manager"
_ENDS = re.compile(r"(\S+) (\d+) \* (\d+)")


def management_socket(bridge: str) -> Path:
    """Return the path of a bridge's management socket (ovs-vswitchd(8))."""
    return _DIRECTORY / f"{bridge}.mgmt"


Serve = Callable[[socket.socket, str], bool]
"""Is given a connection and the bridge's name, and returns when the connection has ended: whether
OpenFlow was spoken."""


class BridgeConnection:
    """Keeps one OpenFlow connection to a bridge."""

    def __init__(self, bridge: str) -> None:
        """Prepare; ``keep`` connects."""
        self.bridge = bridge
        """The bridge that is, or is to be, connected."""
        self._stream: socket.socket | None = None
        self._appeared: Appearance | None = None
        self._changing = threading.Lock()
        self._complaint = ""

    def keep(self, serve: Serve) -> None:
        """Connect, and connect again as soon as the bridge has its socket again, for ever."""
        pause = _SOON_SECONDS
        while True:
            with Appearance(management_socket(self.bridge)) as appeared:
                with self._changing:
                    self._appeared = appeared
                began = time.monotonic()
                trouble = self._connect(serve)
                lasted = not trouble and time.monotonic() - began > RETRY_SECONDS
                if not trouble or pause > _PATIENCE_SECONDS:
                    self._complain(trouble)
                if lasted or appeared.wait(pause):
                    pause = _SOON_SECONDS
                else:
                    pause = min(2 * pause, RETRY_SECONDS)
                with self._changing:
                    self._appeared = None

    def _connect(self, serve: Serve) -> str:
        """Connect once, until it ends; say why OpenFlow was not spoken, nothing if it was."""
        with self._changing:
            bridge = self.bridge
            stream = self._stream = _Stream(socket.AF_UNIX)
        path = management_socket(bridge)
        try:
            stream.connect(str(path))
        except OSError as error:
            stream.close()
            return (
                f"{bridge}: not connected ({path}: {error.strerror}): start Open vSwitch, or add "
                "the bridge; its flows come at once"
            )
        if serve(stream, bridge):
            return ""
        return (
            f"{bridge}: Open vSwitch does not speak OpenFlow 1.3 there: run 'fedsdn site up', or "
            f"ovs-vsctl add Bridge {bridge} protocols OpenFlow13"
        )

    def _complain(self, text: str) -> None:
        """Log a trouble once."""
        if text and text != self._complaint:
            _LOG.warning("%s", text)
        self._complaint = text

    def retry(self) -> None:
        """Try to connect now, if there is no connection: the bridge has changed. For any thread."""
        with self._changing:
            if self._appeared is not None:
                self._appeared.wake()

    def go_over(self, bridge: str) -> None:
        """End the connection; the next one is to another bridge. For any thread."""
        with self._changing:
            self.bridge = bridge
            if self._stream is not None:
                with suppress(OSError):  # not connected, or not any more
                    self._stream.shutdown(socket.SHUT_RDWR)
        self.retry()


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
