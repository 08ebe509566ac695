"""The way to the bridge's socket: taken as soon as it is there; and who has taken it, by ss."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path
from queue import Queue

import pytest

from fedsdn.openflow import bridge_socket
from fedsdn.openflow.bridge_socket import BridgeConnection, is_connected

LISTED = """\
u_str 0      0      /run/openvswitch/db.sock 969195 * 970261 users:(("ovsdb-server",pid=7,fd=20))
u_str 0      0      /var/run/openvswitch/br-provider.mgmt 970732 * 971087 users:(("ovs-vswitchd",pid=12,fd=47))
u_str 0      0      /var/run/openvswitch/br-other.mgmt 970733 * 971088 users:(("ovs-vswitchd",pid=12,fd=48))
u_str 0      0                              * 970261 * 969195 users:(("ovs-vswitchd",pid=12,fd=14))
u_str 0      0                              * 971087 * 970732 users:(("osken-manager",pid=65,fd=11))
u_str 0      0                              * 971088 * 970733 users:(("ovs-ofctl",pid=66,fd=3))
"""  # noqa: E501


def test_the_application_is_connected_to_its_bridge_only() -> None:
    assert is_connected(LISTED, "br-provider")
    assert not is_connected(LISTED, "provider")
    assert not is_connected("", "br-provider")


def test_another_client_of_the_bridge_is_not_the_application() -> None:
    assert not is_connected(LISTED, "br-other")


_NUMBERS = count(1)


class Switch:
    """Open vSwitch's end of a bridge's management socket, and the application's thread."""

    def __init__(self, directory: Path, bridge: str) -> None:
        self.path = directory / f"{bridge}.mgmt"
        self.speaks = True
        self.served: Queue[str] = Queue()
        self.connection = BridgeConnection(bridge)
        threading.Thread(target=self.connection.keep, args=(self._serve,), daemon=True).start()

    def _serve(self, stream: socket.socket, bridge: str) -> bool:
        self.served.put(bridge)
        with suppress(ConnectionError):
            stream.recv(1)
        stream.close()
        return self.speaks

    def listen(self) -> socket.socket:
        """Have the socket appear when it listens: nobody looks again soon, here."""
        self.path.unlink(missing_ok=True)
        new = self.path.with_name("new")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(new))
        listener.listen()
        new.rename(self.path)
        return listener


@pytest.fixture
def switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Switch:
    """A switch that is not there yet, and that nobody looks for unless something happens."""
    monkeypatch.setattr(bridge_socket, "_DIRECTORY", tmp_path)
    monkeypatch.setattr(bridge_socket, "RETRY_SECONDS", 3600.0)
    monkeypatch.setattr(bridge_socket, "_SOON_SECONDS", 3600.0)
    # Short: a socket's path has 107 octets.
    return Switch(tmp_path, f"test-{os.getpid()}-{next(_NUMBERS)}")


def test_the_bridge_is_connected_whenever_its_socket_appears(switch: Switch) -> None:
    for _ in range(3):
        with switch.listen() as listener:
            assert switch.served.get(timeout=20) == switch.connection.bridge
            listener.accept()[0].close()  # it ends: a switch that is killed, with its socket left


def test_news_of_the_bridge_are_a_reason_to_try(switch: Switch) -> None:
    """Its socket is as it was, but it may speak another version of OpenFlow now."""
    switch.speaks = False
    with switch.listen() as listener:
        switch.served.get(timeout=20)
        for _ in range(3):
            listener.accept()[0].close()
            switch.connection.retry()
            switch.served.get(timeout=20)
        listener.accept()[0].close()


def test_another_bridge_is_connected_instead(switch: Switch) -> None:
    with switch.listen() as listener:
        switch.served.get(timeout=20)
        other = switch.path.with_name("other.mgmt")
        with socket.socket(socket.AF_UNIX) as new:
            new.bind(str(other))
            new.listen()
            switch.connection.go_over("other")
            assert switch.served.get(timeout=20) == "other"
            new.accept()[0].close()
        listener.accept()[0].close()


def test_why_there_is_no_connection_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_socket, "_DIRECTORY", tmp_path)
    connection = BridgeConnection("test-bridge")
    assert "No such file or directory): start" in connection._connect(lambda *_: True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "test-bridge.mgmt"))
        listener.listen()
        assert "does not speak OpenFlow 1.3" in connection._connect(lambda *_: False)
        assert connection._connect(lambda *_: True) == ""
    assert "Connection refused" in connection._connect(lambda *_: True)


def test_a_trouble_that_lasts_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge_socket, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(bridge_socket, "_DIRECTORY", tmp_path)
    tries: Queue[None] = Queue()
    connection = BridgeConnection("test-lasting")
    connect = connection._connect

    def counted(serve: bridge_socket.Serve) -> str:
        if tries.qsize() == 5:
            done.set()
            threading.Event().wait()  # this thread has nothing to do any more
        tries.put(None)
        return connect(serve)

    monkeypatch.setattr(connection, "_connect", counted)
    done = threading.Event()
    threading.Thread(target=connection.keep, args=(lambda *_: True,), daemon=True).start()
    assert done.wait(20)
    assert caplog.text.count("test-lasting: not connected") == 1
