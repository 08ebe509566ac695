"""The application without os-ken: its parts wired to each other, to a fake bridge and the channel.

The kernel, which needs root, and the host's checks are put aside; everything else is real.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from os_ken.ofproto import ofproto_v1_3_parser as parser

from fedsdn.channel import server
from fedsdn.channel.ask import open_connections
from fedsdn.channel.messages import VERSION, Call, Hello, List, Needed
from fedsdn.config.loader import dump_federation
from fedsdn.config.local import IDENTITY_DIRECTORY, LocalSettings
from fedsdn.config.model import Federation
from fedsdn.config.watch import WatchedFederation
from fedsdn.controller import alone, federation_file
from fedsdn.controller import controller as controller_module
from fedsdn.controller.controller import Controller
from fedsdn.errors import FinalError
from fedsdn.identity.new import make
from fedsdn.identity.store import save
from fedsdn.openflow.reconciler import Reconciler
from fedsdn.openflow.restorer import Restorer
from fedsdn.ovs.commands import OvsError
from fedsdn.ovs.database import Bridge, Port
from fedsdn.ovs.local_vlans import Bridges
from fedsdn.pipeline.build import SiteFlows, pipeline_flows, site_flows
from fedsdn.shell import Shell
from fedsdn.site import checks, record
from fedsdn.tunnels import plan
from fedsdn.uplinks import monitor, status_file
from fedsdn.uplinks.status import PortState, SiteStatus
from tests.unit.fake_bridge import DOWN, UP, FakeBridge
from tests.unit.fake_database import UPDATE, FakeDatabase
from tests.unit.federations import tenants, two_sites, unencrypted, write_identity
from tests.unit.test_restore import restoration

FEDERATION = two_sites()
NEW = "br-new"
VMS = {"vm1", "vm2"}
_PORT = Port("", (), None, (), (), None, {})


def with_bridge(name: str) -> Federation:
    site, *peers = FEDERATION.sites
    provider = replace(site.provider_network, bridge=name)
    return replace(FEDERATION, sites=(replace(site, provider_network=provider), *peers))


class Host:
    """Where the controller runs; ``set_up`` is the bridge that 'fedsdn site up' has seen."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = directory / "federation.yaml"
        self.write(FEDERATION)
        write_identity(directory, "a")
        self.channel = directory / "channel.sock"
        bridge = FEDERATION.sites[0].provider_network.bridge
        self.set_up = bridge
        self.vms = {"vm1"}
        self.database_error = ""
        self.statuses: list[SiteStatus] = []
        monkeypatch.setattr(controller_module, "CHANNEL_SOCKET", self.channel)
        monkeypatch.setattr(checks, "check_host", lambda _site: None)
        monkeypatch.setattr(record, "steering", self._steering)
        monkeypatch.setattr(monitor, "Kernel", lambda _name: self)
        monkeypatch.setattr(
            status_file, "write_status", lambda one, _file: self.statuses.append(one)
        )
        monkeypatch.setattr("fedsdn.namespace.inside", _no_socket)
        monkeypatch.setattr(federation_file, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(federation_file, "read_bridges", self._read_bridges)
        monkeypatch.setattr(federation_file, "flows_among", self._flows_among)
        monkeypatch.setattr(controller_module, "DATABASE_SOCKET", directory / "db.sock")
        monkeypatch.setattr(controller_module, "_RETRY_SECONDS", 0.01)
        self.controller = Controller(LocalSettings("a", self.file))
        self.main: asyncio.Task[None] | None = None

    def write(self, federation: Federation) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(dump_federation(federation))
        new.replace(self.file)

    def obey(self, _plan: object) -> dict[str, int]:
        """Be the kernel."""
        return {}

    @contextmanager
    def _steering(self, _site: str, bridge: str) -> Iterator[bool]:
        yield bridge == self.set_up

    def _read_bridges(self, _shell: Shell, _name: str) -> Bridges:
        if self.database_error:
            raise OvsError(self.database_error, "start it")
        return {"": Bridge("", "", (), {}, dict.fromkeys(self.vms, _PORT))}

    def _flows_among(
        self, bridges: Bridges, federation: Federation, site: str, before: SiteFlows | None
    ) -> SiteFlows:
        return site_flows(federation, site, tenants(*bridges[""].ports), before)

    def connect(self, name: str) -> FakeBridge:
        federation = with_bridge(name)
        ports = {p for flow in pipeline_flows(federation, "a") for p in flow.ports} | VMS
        fake = FakeBridge(bridge=name, ports={p: (n, UP) for n, p in enumerate(ports, 1)})

        def tell(message: object) -> None:
            if isinstance(message, parser.OFPPortStatus):
                self.controller.port_changed(message)
            else:
                self.controller.answered(message)

        fake.tell = tell
        self.controller.connected(fake)
        return fake

    def ports(self) -> set[PortState]:
        return {uplink.port for uplink in self.statuses[-1].uplinks} if self.statuses else set()


def _no_socket(*_arguments: object) -> None:
    raise OSError(99, "Cannot assign requested address")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def run(host: Host, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        host.main = asyncio.create_task(host.controller.run())
        await asyncio.sleep(0)  # its first step, as in the application
        async with asyncio.timeout(60):
            await scenario()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:  # more than once: Python 3.11's wait_for may swallow it
                task.cancel()
            await asyncio.wait(others, timeout=0.1)

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def complete(bridge: FakeBridge, *vms: str) -> Callable[[], bool]:
    flows = pipeline_flows(with_bridge(bridge.bridge), "a", tenants(*vms or ("vm1",)))
    return lambda: len(bridge.flows) == len(flows)


def test_a_bridge_that_connects_gets_flows_and_its_ports_reach_the_status(host: Host) -> None:
    async def scenario() -> None:
        bridge = host.connect(host.set_up)
        await until(complete(bridge))
        await until(lambda: host.ports() == {PortState.UP})
        bridge.set_port("up1", bridge.ports["up1"][0], DOWN)
        await until(lambda: PortState.DOWN in host.ports())
        host.controller.disconnected(bridge)
        await until(lambda: host.ports() == {PortState.UNKNOWN})

    run(host, scenario)


def test_a_port_is_down_whose_interface_has_no_carrier_whatever_the_bridge_says(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Callable[[Set[str]], None]] = []

    def links(_names: object, seen: Callable[[Set[str]], None], _: object) -> SimpleNamespace:
        told.append(seen)
        return SimpleNamespace(run=asyncio.Event().wait)

    monkeypatch.setattr(controller_module, "Links", links)

    async def scenario() -> None:
        host.connect(host.set_up)
        await until(lambda: host.ports() == {PortState.UP})
        (tell,) = told
        tell({"up1"})
        await until(lambda: host.ports() == {PortState.UP, PortState.DOWN})
        tell(frozenset())
        await until(lambda: host.ports() == {PortState.UP})

    run(host, scenario)


def test_flows_follow_the_file(host: Host) -> None:
    async def scenario() -> None:
        bridge = host.connect(host.set_up)
        await until(complete(bridge))
        sites = tuple(replace(site, prefixes=site.prefixes[:1]) for site in FEDERATION.sites)
        host.write(replace(FEDERATION, sites=sites))
        await until(lambda: not complete(bridge)())

    run(host, scenario)


def test_flows_follow_the_networks_of_the_ports(host: Host, tmp_path: Path) -> None:
    """As the database tells of them; while it is away, and when it is back, nothing is lost."""

    async def scenario() -> None:
        bridge = host.connect(host.set_up)
        await until(complete(bridge))
        for first, second in ((["vm1", "vm2"], ["vm2"]), (["vm1", "vm2"], ["vm1"])):
            host.vms = set(first)  # a change that nobody was told of
            database = FakeDatabase()
            async with await asyncio.start_unix_server(database.serve, tmp_path / "db.sock"):
                await until(complete(bridge, *first))
                host.vms = set(second)
                database.write(UPDATE)
                await until(complete(bridge, *second))
                database.end()
            (tmp_path / "db.sock").unlink()

    run(host, scenario)


def test_a_key_that_comes_later_signs_the_probes_from_then_on(host: Host, tmp_path: Path) -> None:
    """As of the site's second identity, when the file lists that first; the proxy does the same."""
    a, b = FEDERATION.sites
    new = make("a")
    both = replace(FEDERATION, sites=(replace(a, identities=(new.identity, *a.identities)), b))

    async def scenario() -> None:
        host.write(both)
        await until(lambda: host.controller._uplinks._federation == both)
        signed = host.controller._uplinks._signed
        await until(lambda: signed._keys.signing("b") is not None)
        before = signed._keys.signing("b")
        save(tmp_path / IDENTITY_DIRECTORY, new)
        await until(lambda: signed._keys.signing("b") not in (None, before))

    run(host, scenario)


def test_flows_wait_for_a_database_that_does_not_answer(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        host.database_error = "Open vSwitch's database does not answer"
        bridge = host.connect(host.set_up)
        await until(lambda: "does not answer" in caplog.text)
        assert bridge.flows == {}
        host.database_error = ""
        await until(complete(bridge))

    run(host, scenario)
    assert caplog.text.count("does not answer") == 1


def test_a_changed_file_is_followed_while_the_database_is_silent(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """A prefix that is taken out is closed at once, by the ports as they were."""

    async def scenario() -> None:
        bridge = host.connect(host.set_up)
        await until(complete(bridge))
        host.database_error = "Open vSwitch's database does not answer"
        sites = (replace(site, prefixes=site.prefixes[:1]) for site in FEDERATION.sites)
        less = replace(FEDERATION, sites=tuple(sites))
        host.write(less)
        wanted = pipeline_flows(less, "a", tenants(*host.vms))
        await until(lambda: len(bridge.flows) == len(wanted))
        assert len(wanted) < len(pipeline_flows(FEDERATION, "a", tenants(*host.vms)))
        host.vms = VMS
        host.database_error = ""
        await until(lambda: len(bridge.flows) == len(wanted) + 1)

    run(host, scenario)
    assert caplog.text.count("does not answer") == 1


def test_another_bridge_is_followed_once_the_host_is_set_up_with_it(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        old = host.connect(host.set_up)
        await until(complete(old))
        host.write(with_bridge(NEW))
        await until(lambda: "run 'fedsdn site up'" in caplog.text)
        assert host.controller.connection.bridge == old.bridge
        host.set_up = NEW
        await until(lambda: host.controller.connection.bridge == NEW)
        host.controller.disconnected(old)
        late = host.connect(old.bridge)
        assert late.closed, "made just before going over"
        new = host.connect(NEW)
        await until(complete(new))

    run(host, scenario)


def test_the_channel_answers(host: Host) -> None:
    async def scenario() -> None:
        assert await asyncio.to_thread(open_connections, host.channel) == []

    run(host, scenario)


def test_a_peer_that_a_worker_has_connections_with_is_probed_often(host: Host) -> None:
    async def scenario() -> None:
        while not host.channel.exists():
            await asyncio.sleep(0.01)
        _, writer = await asyncio.open_unix_connection(host.channel)
        writer.write(Call(Hello(VERSION, 0, 1), 1).encode() + Call(Needed(["b"], [])).encode())
        (peer,) = host.controller._uplinks._paths._peers.values()
        while not peer.is_wanted(time.monotonic()):
            await asyncio.sleep(0.01)
        writer.close()

    run(host, scenario)


class InjectedError(Exception):
    """Nothing that any code expects."""


def _break(host: Host, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_more: object) -> None:
        raise InjectedError(part)

    kind, name = {
        "federation file": (WatchedFederation, "refresh"),
        "reconciler": (Reconciler, "_reconcile"),
        "restorer": (Restorer, "_messages"),
        "channel": (server.Channel, "_page"),
        "uplinks": (type(host), "obey"),
    }[part]
    monkeypatch.setattr(kind, name, fail)


@pytest.mark.parametrize(
    "part", ["federation file", "reconciler", "restorer", "channel", "uplinks"]
)
def test_an_unexpected_exception_in_any_task_ends_all_of_them(
    host: Host, part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        bridge = host.connect(host.set_up)
        await until(complete(bridge))
        _break(host, part, monkeypatch)
        host.controller._reconciler.wake()
        asking = asyncio.create_task(host.controller._restore([restoration(4)]))
        _, writer = await asyncio.open_unix_connection(host.channel)
        writer.write(Call(List(skip=0), 1).encode())
        assert host.main is not None
        done, _ = await asyncio.wait([host.main], timeout=30)
        assert isinstance(next(iter(done)).exception(), InjectedError | ExceptionGroup)
        asking.cancel()
        writer.close()

    run(host, scenario)
    assert f"task '{part}' failed" in caplog.text


def test_a_host_has_one_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "_PATIENCE_SECONDS", 0.0)
    lock = alone.take_lock(tmp_path / "lock", "a")
    with pytest.raises(FinalError, match=f"on this host .process {os.getpid()}, site a.: a host"):
        alone.take_lock(tmp_path / "lock", "b")
    os.close(lock)
    os.close(alone.take_lock(tmp_path / "lock", "b"))


def test_a_file_with_tunnels_that_cannot_be_told_apart_is_not_followed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_VXLAN_IDENTIFIERS", 1)
    watched = host.controller._watched
    host.write(unencrypted(FEDERATION))
    assert not watched.refresh(force=True)
    assert watched.current == FEDERATION
    with pytest.raises(FinalError, match="VXLAN identifier"):
        Controller(LocalSettings("a", host.file))
