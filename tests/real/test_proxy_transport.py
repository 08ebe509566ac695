"""Connections between sites as the proxy makes them, with uplinks that are silent, refuse or fail.

In a network namespace of its own, where one address drops whatever comes.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_interface
from itertools import count
from typing import Any

import pytest

from fedsdn.config.model import Uplink
from fedsdn.mptcp import orphan
from fedsdn.mptcp.connection import Carrier, carrier, token
from fedsdn.pipeline.declarations import SocketMark
from fedsdn.proxy.sockets import earlier, tcp, transparent, transport
from fedsdn.proxy.sockets.earlier import Earlier, Patience
from fedsdn.socket_address import SocketAddress
from tests.real.in_namespace import inside_namespace, namespace_with
from tests.unit.loopback import LIMIT_SECONDS, descriptors, receive, until

pytestmark = pytest.mark.real

PORT = 1080
MANY = 10
NEAR, FAR = ip_interface("192.0.2.1/24"), ip_interface("192.0.2.2/24")
NEAR_6, FAR_6 = ip_interface("2001:db8:2::1/64"), ip_interface("2001:db8:2::2/64")
SILENT = ip_interface("198.51.100.9/24")
SET_UP = """
ip link set lo up
for address in 192.0.2.1 192.0.2.2 198.51.100.1 198.51.100.9 10.1.0.11; do
  ip address add $address/32 dev lo
done
for address in 2001:db8:2::1 2001:db8:2::2 fd00:1::11; do
  ip address add $address/128 dev lo nodad
done
nft 'table inet test { chain input { type filter hook input priority 0; }; }'
nft 'add rule inet test input ip daddr 198.51.100.9 drop'
sysctl -qw net.mptcp.enabled=1
"""


@pytest.fixture(scope="module")
def ground() -> Iterator[str]:
    with namespace_with(SET_UP) as name:
        yield name


def path(far: Any = FAR, near: Any = NEAR) -> tuple[Uplink, Uplink]:  # noqa: ANN401
    return Uplink("near", "near", near), Uplink("far", "far", far)


LIVE = path()
LIVE_6 = path(FAR_6, NEAR_6)
DEAD = path(SILENT, ip_interface("198.51.100.1/24"))
NOT_OURS = path(near=ip_interface("192.0.2.77/24"))


async def accept(listener: socket.socket) -> socket.socket:
    return (await asyncio.get_running_loop().sock_accept(listener))[0]


async def connected(
    listener: socket.socket, *paths: tuple[Uplink, Uplink]
) -> tuple[socket.socket, socket.socket]:
    near, far = await asyncio.gather(transport.connect(paths, PORT), accept(listener))
    return near, far


@pytest.mark.parametrize("over", [LIVE, LIVE_6], ids=["IPv4", "IPv6"])
@inside_namespace
async def test_a_path_binds_the_own_uplink_and_speaks_mptcp(
    ground: str, over: tuple[Uplink, Uplink]
) -> None:
    with transport.listen(PORT) as listener:
        near, far = await connected(listener, over)
        with near, far:
            assert tcp.unmapped(near.getsockname()[0]) == over[0].address.ip
            assert tcp.unmapped(far.getpeername()[0]) == over[0].address.ip
            assert token(near)
            assert token(far)
            assert carrier(near) is Carrier.MPTCP
            assert carrier(far) is Carrier.MPTCP


@pytest.mark.parametrize("bad", [DEAD, NOT_OURS], ids=["silent", "fails at once"])
@inside_namespace
async def test_a_bad_path_is_passed_over(ground: str, bad: tuple[Uplink, Uplink]) -> None:
    before = len(descriptors())
    with transport.listen(PORT) as listener:
        near, far = await connected(listener, bad, LIVE)
        with near, far:
            assert tcp.unmapped(near.getsockname()[0]) == NEAR.ip
        await until(lambda: len(descriptors()) == before + 1)


@inside_namespace
async def test_a_path_that_fails_costs_no_head_start(
    ground: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "HEAD_START_SECONDS", 10 * LIMIT_SECONDS)
    with transport.listen(PORT) as listener:
        near, far = await connected(listener, NOT_OURS, NOT_OURS, LIVE)
        near.close()
        far.close()


@inside_namespace
async def test_paths_that_are_tried_at_once_do_not_wait_for_each_other(
    ground: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "HEAD_START_SECONDS", 10 * LIMIT_SECONDS)
    with transport.listen(PORT) as listener:
        near, (far, _) = await asyncio.gather(
            transport.connect([DEAD, LIVE], PORT, at_once=2),
            asyncio.get_running_loop().sock_accept(listener),
        )
        near.close()
        far.close()


@inside_namespace
async def test_nobody_listening_is_refused(ground: str) -> None:
    before = len(descriptors())
    with pytest.raises(ConnectionRefusedError):
        await transport.connect([LIVE, LIVE_6], PORT)
    await until(lambda: len(descriptors()) == before)


@inside_namespace
async def test_without_a_path_there_is_an_error(ground: str) -> None:
    with pytest.raises(OSError, match="no path to the peer") as raised:
        await transport.connect([], PORT)
    assert raised.value.errno == errno.ENETUNREACH


@inside_namespace
async def test_silence_everywhere_is_a_time_out(
    ground: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "ATTEMPT_SECONDS", 0.6)
    before = len(descriptors())
    with pytest.raises(OSError, match="no path to the peer answers") as raised:
        await transport.connect([DEAD, DEAD], PORT)
    assert raised.value.errno == errno.ETIMEDOUT
    await until(lambda: len(descriptors()) == before)


@inside_namespace
async def test_cancelled_at_any_moment_it_leaves_no_socket(ground: str) -> None:
    with transport.listen(PORT) as listener:
        before = len(descriptors())
        finished = cancelled = 0
        for steps in count():  # until several have come to their end
            connecting = asyncio.create_task(transport.connect([NOT_OURS, LIVE, LIVE_6], PORT))
            for _ in range(steps):
                await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.wait([connecting])
            if not connecting.cancelled():
                connecting.result().close()
                finished += 1
            cancelled += connecting.cancelled()
            await until(lambda: len(descriptors()) == before)
            if finished > MANY:
                break
        assert cancelled > 0, "both ends of the race were seen"
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                break


@inside_namespace
async def test_of_several_that_answer_one_stays_open(
    ground: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "HEAD_START_SECONDS", 0)
    before = len(descriptors())
    with transport.listen(PORT), await transport.connect([LIVE, LIVE_6, LIVE, LIVE_6], PORT):
        await until(lambda: len(descriptors()) == before + 2)


@inside_namespace
async def test_plain_tcp_is_noticed_at_both_ends(ground: str) -> None:
    with (
        transport.listen(PORT) as listener,
        socket.create_server((str(FAR.ip), PORT + 1)) as plain,
        socket.socket() as client,
    ):
        client.connect((str(FAR.ip), PORT))
        with await accept(listener) as accepted:
            assert carrier(accepted) is Carrier.TCP
            assert not token(accepted)
        near = await transport.connect([LIVE], PORT + 1)
        with near, plain.accept()[0]:
            assert carrier(near) is Carrier.FALLEN_BACK
            assert not token(near)


@pytest.mark.parametrize("over", [LIVE, LIVE_6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("unread", [0, 1 << 20])
@inside_namespace
async def test_a_reset_is_one_for_the_peer(
    ground: str, over: tuple[Uplink, Uplink], who: int, unread: int
) -> None:
    with transport.listen(PORT) as listener:
        ends = await connected(listener, over)
        for end in ends:
            tcp.prepare(end)
        one, other = ends[who], ends[1 - who]
        with one, other:
            other.send(bytes(unread))
            tcp.reset(one)
            with pytest.raises(ConnectionResetError):
                await receive(other)


@inside_namespace
async def test_closed_without_order_it_is_reset(ground: str) -> None:
    with transport.listen(PORT) as listener:
        near, far = await connected(listener, LIVE)
        with far:
            near.close()
            with pytest.raises(ConnectionResetError):
                await receive(far)


@inside_namespace
async def test_told_to_end_in_order_it_gets_everything_out(ground: str) -> None:
    with transport.listen(PORT) as listener:
        near, far = await connected(listener, LIVE)
        with far:
            sent = near.send(bytes(1 << 22))
            tcp.end_in_order(near)
            near.close()
            assert (await receive(far))[0] == sent


@pytest.mark.parametrize("port", [PORT, 1081, 50_000])
@pytest.mark.parametrize("client", ["10.1.0.11", "fd00:1::11"])
@inside_namespace
async def test_a_clients_port_may_be_one_that_the_proxy_listens_on(
    ground: str, client: str, port: int
) -> None:
    endpoint = SocketAddress(tcp.unmapped(client), port)
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    with (
        transport.listen(PORT),
        transparent.listen(1081, SocketMark.SOCKSIFIER),
        socket.socket(family, socket.SOCK_STREAM) as vm,
    ):
        vm.bind((str(FAR_6.ip if ":" in client else FAR.ip), 0))
        vm.listen()
        destination = SocketAddress(tcp.unmapped(vm.getsockname()[0]), vm.getsockname()[1])
        call = transparent.Call(destination, 0, int)
        near = await transparent.connect_as(endpoint, call, SocketMark.SERVER)
        with near, vm.accept()[0] as accepted:
            assert accepted.getpeername()[:2] == (client, port)


@inside_namespace
async def test_a_port_that_is_still_in_use_is_waited_for(ground: str) -> None:
    client = SocketAddress(tcp.unmapped("10.1.0.11"), 50_001)
    with socket.create_server((str(FAR.ip), 0)) as vm:
        call = transparent.Call(SocketAddress(FAR.ip, vm.getsockname()[1]), 0, int)
        before = len(descriptors())
        first = await transparent.connect_as(client, call, SocketMark.SERVER)
        second = asyncio.create_task(transparent.connect_as(client, call, SocketMark.SERVER))
        await asyncio.sleep(0)
        assert not second.done()
        first.close()
        (await second).close()
        assert len(descriptors()) == before


@pytest.mark.parametrize("vms", [FAR, FAR_6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("marked", [SocketMark.SERVER, SocketMark.SOCKSIFIER])
@inside_namespace
async def test_a_port_that_stays_in_use_is_taken_from_what_its_client_has_left(
    ground: str,
    vms: Any,  # noqa: ANN401
    marked: SocketMark,
) -> None:
    """But never from a connection that the destination has begun: that has the other mark."""
    client = SocketAddress(tcp.unmapped("10.1.0.11" if vms is FAR else "fd00:1::11"), 50_002)
    family = socket.AF_INET if vms is FAR else socket.AF_INET6
    with socket.create_server((str(vms.ip), 0), family=family) as vm:
        vm.settimeout(LIMIT_SECONDS)
        call = transparent.Call(SocketAddress(vms.ip, vm.getsockname()[1]), 0, int)
        left = await transparent.connect_as(client, call, marked)
        with left, vm.accept()[0] as forgotten:
            forgotten.settimeout(LIMIT_SECONDS)
            again = transparent.connect_as(client, call, SocketMark.SERVER, reuse_seconds=0)
            if marked is SocketMark.SERVER:
                with await again, vm.accept()[0] as accepted:
                    assert accepted.getpeername()[:2] == (str(client.address), client.port)
                    with pytest.raises(ConnectionResetError):
                        forgotten.recv(1)
                assert tcp.is_broken(left)
            else:
                with pytest.raises(OSError, match="Cannot assign requested address"):
                    await again
                left.send(b"!")
                assert forgotten.recv(1) == b"!"


@pytest.mark.parametrize("vms", [FAR, FAR_6], ids=["IPv4", "IPv6"])
@inside_namespace
async def test_what_listens_on_a_clients_port_is_no_connection_of_it(
    ground: str,
    vms: Any,  # noqa: ANN401
) -> None:
    client = SocketAddress(tcp.unmapped("10.1.0.11" if vms is FAR else "fd00:1::11"), 50_003)
    with transparent.listen(client.port, SocketMark.SERVER) as listener:
        vm = SocketAddress(vms.ip, 80)
        assert orphan.standing_between(client, vm, SocketMark.SERVER) is None
        assert not Earlier(client, vm, SocketMark.SERVER, Patience(0, 0)).try_again(0)
        with socket.create_connection((str(client.address), client.port), LIMIT_SECONDS):
            (await accept(listener)).close()


@inside_namespace
async def test_what_a_slow_reader_is_still_to_get_is_not_thrown_away(
    ground: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client had been told that it has arrived: only what is stuck is ended."""
    looks = []

    def look(*ends: Any) -> orphan.Standing | None:  # noqa: ANN401
        looks.append(orphan.standing_between(*ends))
        return looks[-1]

    monkeypatch.setattr(earlier, "standing_between", look)
    client = SocketAddress(tcp.unmapped("10.1.0.11"), 50_004)
    with socket.socket() as vm:
        vm.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        vm.bind((str(FAR.ip), 0))
        vm.listen()
        vm.settimeout(LIMIT_SECONDS)
        call = transparent.Call(SocketAddress(FAR.ip, vm.getsockname()[1]), 0, int)
        first = await transparent.connect_as(client, call, SocketMark.SERVER)
        with vm.accept()[0] as slow:
            slow.setblocking(False)
            sent = 0
            while tcp.unacknowledged(first) < 1 << 16:
                sent += first.send(bytes(1 << 17))
            tcp.end_in_order(first)
            first.close()
            again = asyncio.create_task(
                transparent.connect_as(client, call, SocketMark.SERVER, reuse_seconds=0)
            )
            await until(lambda: len(looks) > 2 or again.done())
            assert all(one and one.unacknowledged for one in looks)
            assert (await receive(slow))[0] == sent
        with await again, vm.accept()[0] as accepted:
            assert accepted.getpeername()[:2] == (str(client.address), client.port)


def orphan_of(client: SocketAddress, vm: SocketAddress) -> orphan.Standing:
    found = orphan.standing_between(client, vm, SocketMark.SERVER)
    assert found is not None
    return found


@inside_namespace
async def test_what_no_process_has_any_more_is_ended_and_gone(ground: str) -> None:
    client = SocketAddress(tcp.unmapped("10.1.0.11"), 50_005)
    with socket.create_server((str(FAR.ip), 0)) as vm:
        vm.settimeout(LIMIT_SECONDS)
        call = transparent.Call(SocketAddress(FAR.ip, vm.getsockname()[1]), 0, int)
        first = await transparent.connect_as(client, call, SocketMark.SERVER)
        with vm.accept()[0] as stuck:
            stuck.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    first.send(bytes(1 << 17))
            tcp.end_in_order(first)
            first.close()
            standing = orphan_of(client, call.destination)
            assert standing.acknowledged > 0
            assert standing.unacknowledged > 0
            assert orphan.end(standing, client, call.destination)
            assert orphan.standing_between(client, call.destination, SocketMark.SERVER) is None
            with pytest.raises(ConnectionResetError):
                await receive(stuck)
