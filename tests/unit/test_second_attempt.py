"""A handshake that is reset is made once more, from another uplink if there is one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from fedsdn.config.model import Site, Uplink
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.sockets import tcp, transport
from fedsdn.proxy.sockets.exchange import readable
from fedsdn.proxy.sockets.live_paths import LivePaths
from fedsdn.proxy.sockets.path_manager import PathManager
from fedsdn.proxy.socks import connection as module
from fedsdn.proxy.socks.connection import Connector
from fedsdn.proxy.tls.secured import TlsError
from tests.unit.loopback import asynchronous
from tests.unit.tls_ends import FEDERATION, A, B, C, tls_of


def on_loopback(site: Site, host: int) -> Site:
    """A site with two uplinks, each of which reaches one of another such site."""
    uplinks = (
        replace(uplink, address=ip_interface(f"127.0.{number}.{host}/24"))
        for number, uplink in enumerate(site.uplinks[:2], 1)
    )
    return replace(site, uplinks=tuple(uplinks))


OWN, PEER = on_loopback(A, 1), on_loopback(B, 2)
FROM_LOOPBACK = replace(FEDERATION, sites=(OWN, PEER, C))


class FakePathManager:
    @contextmanager
    def managing(self, far: socket.socket, _peer: str, _give_up: object) -> Iterator[object]:
        yield SimpleNamespace(sock=far, token=0)


class Scene:
    """The connector of site a, over loopback, and a server in b's place."""

    def __init__(self, tmp_path: Path) -> None:
        self.server = tls_of(tmp_path, B)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.called_from: list[str] = []
        self.connector = Connector(
            Policy.at(FROM_LOOPBACK, "a"),
            LivePaths(),
            cast("PathManager", FakePathManager()),
            lambda *_: None,
            tls_of(tmp_path, A),
        )

    async def connect(
        self, paths: Sequence[tuple[Uplink, Uplink]], _port: int, at_once: int
    ) -> socket.socket:
        """Stand for ``transport.connect``, where all paths are live."""
        assert at_once == 1
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((str(paths[0][0].address.ip), 0))
        await tcp.connect(sock, self.listener.getsockname())
        return sock

    async def accept(self) -> socket.socket:
        far, (address, _) = await asyncio.get_running_loop().sock_accept(self.listener)
        self.called_from.append(address)
        await readable(far)
        return far

    async def reset_one(self) -> None:
        far = await self.accept()
        tcp.prepare(far)
        far.close()

    async def prove_one(self) -> None:
        far = self.server.called(await self.accept(), A)
        with far:
            await self.server.prove(far, A)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(tmp_path)
    monkeypatch.setattr(transport, "connect", made.connect)
    monkeypatch.setattr(module, "is_usable", lambda *_: True)
    with made.listener:
        yield made


@asynchronous
async def test_it_is_made_again_from_another_uplink(scene: Scene) -> None:
    connecting = asyncio.create_task(scene.connector.connect(PEER))
    await scene.reset_one()
    await scene.prove_one()
    connection = await connecting
    assert connection.far.getsockname()[0] == scene.called_from[1]
    assert len(set(scene.called_from)) == 2
    connection.close()


@asynchronous
async def test_it_is_not_made_a_third_time(scene: Scene) -> None:
    connecting = asyncio.create_task(scene.connector.connect(PEER))
    await scene.reset_one()
    await scene.reset_one()
    with pytest.raises(ConnectionResetError):
        await connecting
    with pytest.raises(BlockingIOError):
        scene.listener.accept()


@asynchronous
async def test_with_one_uplink_it_is_made_again_from_that(scene: Scene) -> None:
    single = replace(OWN, uplinks=OWN.uplinks[:1])
    scene.connector.policy = Policy.at(replace(FEDERATION, sites=(single, PEER, C)), "a")
    connecting = asyncio.create_task(scene.connector.connect(PEER))
    await scene.reset_one()
    await scene.prove_one()
    (await connecting).close()
    assert scene.called_from == ["127.0.1.1"] * 2


@asynchronous
async def test_who_is_not_the_peer_is_not_asked_twice(scene: Scene, tmp_path: Path) -> None:
    scene.server = tls_of(tmp_path, C)
    connecting = asyncio.create_task(scene.connector.connect(PEER))
    proving = asyncio.create_task(scene.prove_one())
    with pytest.raises(TlsError):
        await connecting
    await asyncio.wait([proving])
    assert len(scene.called_from) == 1
