"""Sources restored by the bridge (``source_restore: nat``) or by nobody, on two whole sites."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from fedsdn.lab import build, operator
from fedsdn.lab.host import Host
from fedsdn.lab.lab import Lab
from fedsdn.lab.wait import wait_until
from fedsdn.pipeline.declarations import RESTORE_SECONDS, Table
from fedsdn.proxy.process.stats_socket import read_statistics
from tests.real.test_proxy_lab import LIMIT_SECONDS, RESET, Vm, connections, is_reset, receive, send
from tests.unit.federations import with_source_restore

pytestmark = pytest.mark.real

TOPOLOGY = Path(__file__).parents[2] / "topo" / "two-site-nat.yaml"
MANY = 300
BURST = 40
EVERYWHERE = [(near, far, family) for near, far in ("ab", "ba") for family in (4, 6)]


@pytest.fixture(scope="module")
def nat() -> Iterator[Lab]:
    name = f"test-nat-{os.getpid()}"
    try:
        yield build.up(TOPOLOGY, name)
    finally:
        build.down(name)


@pytest.fixture(params=EVERYWHERE, ids=["a to b, v4", "a to b, v6", "b to a, v4", "b to a, v6"])
def ends(request: pytest.FixtureRequest, nat: Lab) -> tuple[Vm, Vm]:
    near, far, family = request.param
    return Vm(nat, near, "vm1", family), Vm(nat, far, "vm2", family)


def restored(host: Host) -> int:
    count: int = read_statistics(host.run_directory / "fedsdn/proxy.sock")["inbound_restored"]
    return count


def single_flows(host: Host) -> list[str]:
    """Flows of single connections that are on a site's bridge."""
    dump = host.run("ovs-ofctl", "-O", "OpenFlow13", "dump-flows", "br-provider")
    ours = rf"table=({Table.RESTORE.value}|{Table.RESTORED.value}),.*hard_timeout="
    return [flow for flow in dump.splitlines() if re.search(ours, flow)]


def test_each_of_many_has_its_clients_address_and_data_both_ways(ends: tuple[Vm, Vm]) -> None:
    near, far = ends
    before = restored(far.host)
    with connections(near, far, count=MANY) as pairs:
        # Which server's end is whose was found by the client's address and port.
        for number, (client, server) in enumerate(pairs):
            client.sendall(number.to_bytes(4, "big"))
            server.sendall(number.to_bytes(4, "little"))
        for number, (client, server) in enumerate(pairs):
            assert server.recv(4) == number.to_bytes(4, "big")
            assert client.recv(4) == number.to_bytes(4, "little")
    assert restored(far.host) - before == MANY


def test_much_data_is_intact(ends: tuple[Vm, Vm]) -> None:
    with connections(*ends) as [(client, server)], ThreadPoolExecutor() as threads:
        at_server, at_client = threads.submit(receive, server), threads.submit(receive, client)
        sent = threads.submit(send, client, 1), threads.submit(send, server, 2)
        assert at_server.result() == sent[0].result()
        assert at_client.result() == sent[1].result()


def test_two_clients_with_the_same_port_are_two_clients(nat: Lab) -> None:
    clients = [Vm(nat, "a", name, 4) for name in ("vm1", "vm2")]
    far = Vm(nat, "b", "vm1", 4)
    with ExitStack() as stack:
        listener = stack.enter_context(far.namespace.listen(far.address))
        port = listener.getsockname()[1]
        for client in clients:
            source = (client.address, 45678)
            stack.enter_context(client.namespace.connect(far.address, port, source))
        seen = set()
        for _ in clients:
            server, name = listener.accept()
            stack.enter_context(server)
            seen.add(name)
        assert seen == {(client.address, 45678) for client in clients}


def test_a_port_that_is_used_again_at_once_is_seen_again(ends: tuple[Vm, Vm]) -> None:
    """Although conntrack still knows the connection that it was used for."""
    near, far = ends
    with far.namespace.listen(far.address) as listener:
        listener.settimeout(LIMIT_SECONDS)
        for _ in range(3):
            source = (near.address, 45679)
            with near.namespace.connect(far.address, listener.getsockname()[1], source) as client:
                server, name = listener.accept()
                assert name[:2] == source
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            with server:
                assert is_reset(server)


@pytest.mark.parametrize("family", [4, 6])
def test_flows_are_there_while_connections_are_opened_and_no_longer(nat: Lab, family: int) -> None:
    near, far = Vm(nat, "a", "vm1", family), Vm(nat, "b", "vm2", family)
    with connections(near, far, count=BURST) as pairs:
        wait_until(
            lambda: not single_flows(far.host),
            RESTORE_SECONDS + LIMIT_SECONDS,
            lambda: f"{len(single_flows(far.host))} flows of single connections are still there",
        )
        for client, server in pairs:
            client.sendall(b"still")
            assert server.recv(5) == b"still"


def test_a_closed_port_refuses(ends: tuple[Vm, Vm]) -> None:
    near, far = ends
    with far.namespace.listen(far.address) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        near.namespace.connect(far.address, port)


def test_a_vm_whose_connection_conntrack_has_lost_is_reset(ends: tuple[Vm, Vm]) -> None:
    """Nobody could restore its source any more."""
    with connections(*ends) as [(_, server)]:
        ends[1].host.run("ovs-appctl", "dpctl/flush-conntrack")
        server.sendall(b"to whom?")
        assert is_reset(server)


class Openers:
    """Threads that open connections one after another until told to stop; all stay open."""

    def __init__(self, near: Vm, far: Vm, count: int) -> None:
        self._near, self._far = near, far
        self._stop = threading.Event()
        self.listener = far.namespace.listen(far.address)
        self.seen: set[tuple[str, int]] = set()
        self.open: list[tuple[tuple[str, int], socket.socket]] = []
        self.failed: set[tuple[str, int]] = set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        self._threads = [threading.Thread(target=self._connect) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                server, name = self.listener.accept()
                self.seen.add(name[:2])
                server.sendall(b"!")
                self.open.append((name[:2], server))

    def _connect(self) -> None:
        port = self.listener.getsockname()[1]
        while not self._stop.is_set():
            client = self._near.namespace.connect(self._far.address, port)
            client.settimeout(LIMIT_SECONDS)
            try:
                assert client.recv(1) == b"!"
                self.open.append((client.getsockname()[:2], client))
            except ConnectionResetError:
                self.failed.add(client.getsockname()[:2])
                client.close()

    def finish(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("how", ["KILL", "TERM"])
def test_an_application_that_is_started_again_restores_again(nat: Lab, how: str) -> None:
    """Open connections live, those being opened wait or are reset, none has a wrong address."""
    near, far = Vm(nat, "a", "vm1", 4), Vm(nat, "b", "vm2", 4)
    site = nat.topology.federation.site("b")
    with connections(near, far, count=BURST) as pairs:
        load = Openers(near, far, count=8)
        wait_until(lambda: len(load.seen) > BURST, LIMIT_SECONDS, lambda: "nothing is opened")
        daemon = far.host.daemon(operator.CONTROLLER)
        daemon.signal(how)
        wait_until(lambda: not daemon.alive(), LIMIT_SECONDS, lambda: "it does not end")
        operator.wait_for_controller(far.host, site, operator.start_controller(far.host))
        so_far = len(load.seen)
        wait_until(
            lambda: len(load.seen) > so_far + BURST, LIMIT_SECONDS, lambda: "nothing is opened"
        )
        load.finish()
        own = {name for name, _ in load.open if name[0] == near.address} | load.failed
        assert load.seen <= own, "whom the server sees is a client"
        for client, server in pairs:
            client.sendall(b"still")
            assert server.recv(5) == b"still"
        load.listener.close()
        for _, sock in load.open:
            sock.close()


# Last, as the lab is another one then: ``source_restore: none``


@pytest.fixture(scope="module")
def unrestored(nat: Lab) -> Lab:
    """Return the same lab, after its file has been changed."""
    federation = with_source_restore(nat.topology.federation, "none")
    for host in nat.hosts:
        operator.write_settings(host, federation)

    def all_over() -> bool:
        ends = [
            (Vm(nat, near, "vm1", family), Vm(nat, far, "vm2", family))
            for near, far, family in EVERYWHERE
        ]
        return all(seen_by(near, far) == proxy_address(far) for near, far in ends)

    wait_until(all_over, LIMIT_SECONDS, lambda: "the sites do not go over to the changed file")
    return nat


def seen_by(near: Vm, far: Vm) -> str | None:
    """Whom the far VM sees, None if nobody comes through."""
    with far.namespace.listen(far.address) as listener, suppress(ConnectionError, TimeoutError):
        listener.settimeout(1)
        with near.namespace.connect(far.address, listener.getsockname()[1]):
            server, name = listener.accept()
            server.close()
            return str(name[0])
    return None


def proxy_address(vm: Vm) -> str:
    number = {"a": 1, "b": 2}[vm.host.name]
    return f"fd00:{number}::2" if ":" in vm.address else f"10.{number}.0.2"


@pytest.mark.parametrize("route", EVERYWHERE, ids=lambda route: "{} to {}, v{}".format(*route))
def test_without_restoring_many_connections_come_from_the_proxy(
    unrestored: Lab, route: tuple[str, str, int]
) -> None:
    near, far = Vm(unrestored, route[0], "vm1", route[2]), Vm(unrestored, route[1], "vm2", route[2])
    with ExitStack() as stack:
        listener = stack.enter_context(far.namespace.listen(far.address))
        port = listener.getsockname()[1]
        clients = [
            stack.enter_context(near.namespace.connect(far.address, port)) for _ in range(BURST)
        ]
        servers, seen = [], set()
        for client in clients:
            server, name = listener.accept()
            servers.append(stack.enter_context(server))
            seen.add(name[0])
            client.settimeout(LIMIT_SECONDS)
        assert seen == {proxy_address(far)}
        for number, server in enumerate(servers):
            server.sendall(number.to_bytes(4, "big"))
        answers = {int.from_bytes(client.recv(4), "big") for client in clients}
        assert answers == set(range(BURST))


@pytest.mark.parametrize("family", [4, 6])
def test_without_restoring_a_closed_port_is_refused(unrestored: Lab, family: int) -> None:
    near, far = Vm(unrestored, "a", "vm1", family), Vm(unrestored, "b", "vm2", family)
    with far.namespace.listen(far.address) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        near.namespace.connect(far.address, port)


@pytest.mark.parametrize("family", [4, 6])
def test_the_proxys_address_is_no_way_in(unrestored: Lab, family: int) -> None:
    vm = Vm(unrestored, "a", "vm1", family)
    with vm.namespace.open(vm.address) as sock:
        sock.settimeout(1)
        with pytest.raises((TimeoutError, ConnectionError)):
            sock.connect((proxy_address(vm), 1080))


def test_it_is_said_in_the_log(unrestored: Lab) -> None:
    for host in unrestored.hosts:
        log = host.log(operator.PROXY).read_text()
        assert log.count("sources are not restored: VMs here see connections from") == 1
