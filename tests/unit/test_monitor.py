"""Two monitors on loopback, with real probes; only the kernel is a fake one, which blocks."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from pathlib import Path

import pytest

from fedsdn.config.model import Address, Federation, Probes, Site, Uplink
from fedsdn.identity.store import OwnKeys
from fedsdn.pipeline.declarations import port_mac
from fedsdn.uplinks import monitor, status_file
from fedsdn.uplinks.kernel import Plan
from fedsdn.uplinks.monitor import Namespace, UplinkMonitor
from fedsdn.uplinks.news import PathNews, ToldPath
from fedsdn.uplinks.path import PathKey
from fedsdn.uplinks.sockets import ProbeSockets, open_socket
from fedsdn.uplinks.status import PathState, PortState, write_status
from tests.unit.federations import private_keys, two_sites
from tests.unit.loopback import asynchronous

ADDRESSES = {"a": ("127.18.0.1", "127.18.0.2"), "b": ("127.18.1.1", "127.18.1.2")}
PORTS = {"up1": PortState.UP, "up2": PortState.UP}
UP, DOWN = PathState.UP, PathState.DOWN
NAMESPACE = Namespace("none", lambda work: work(), lambda: None)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        return int(sock.getsockname()[1])


def federation() -> Federation:
    """The two sites on addresses of loopback, where an uplink also reaches the peer's other one."""
    sites = tuple(
        replace(
            site,
            uplinks=tuple(
                Uplink(f"up{number}", f"up{number}", ip_interface(f"{address}/8"))
                for number, address in enumerate(ADDRESSES[site.name], 1)
            ),
        )
        for site in two_sites().sites
    )
    return Federation(sites, free_port(), Probes(interval=0.05))


def own_keys(site: Site) -> list[OwnKeys]:
    """The private halves of a site's identities, as its host has them."""
    return [private_keys(site.name)]


def with_another_address(old: Federation) -> Federation:
    """The same with another address for up2 of site a."""
    a, b = old.sites
    up1, up2 = a.uplinks
    moved = replace(up2, address=ip_interface("127.18.0.3/8"))
    return replace(old, sites=(replace(a, uplinks=(up1, moved)), b))


class BlockedKernel:
    """A kernel that takes until it is released, as for the end of thousands of subflows."""

    def __init__(self, _namespace: str) -> None:
        self.began = threading.Event()
        self.released = threading.Event()
        self.obeyed: list[Plan] = []

    def obey(self, plan: Callable[[], Plan]) -> dict[str, int]:
        self.began.set()
        self.released.wait()
        self.obeyed.append(plan())
        return {uplink.name: number for number, uplink in enumerate(plan().site.uplinks, 1)}


@dataclass
class Running:
    """A monitor that runs, and what it has said."""

    monitor: UplinkMonitor
    kernel: BlockedKernel
    told: list[PathNews] = field(default_factory=list)
    known: dict[PathKey, ToldPath] = field(default_factory=dict)
    opened: list[tuple[Uplink, Address | None]] = field(default_factory=list)

    def tell(self, news: PathNews) -> None:
        self.told.append(news)
        self.known |= {path.key: path for path in news.paths}
        for key in news.gone:
            del self.known[key]

    def paths(self) -> set[tuple[str, PathState]]:
        return {(path.uplink, path.state) for path in self.known.values()}

    def endpoints(self) -> set[str]:
        return set(self.told[-1].endpoints)

    def addresses(self) -> set[str]:
        return {str(uplink.address.ip) for uplink, _ in self.opened}


async def until(condition: Callable[[], bool]) -> None:
    """Wait, for no longer than a test may take."""
    while not condition():
        await asyncio.sleep(0.005)


@asynccontextmanager
async def running(federation: Federation, site: str) -> AsyncIterator[Running]:
    def open_and_note(uplink: Uplink, port: int, peer: Address | None) -> socket.socket:
        found.opened.append((uplink, peer))
        return open_socket(uplink, port, peer)

    with ThreadPoolExecutor(1) as executor:
        watching = UplinkMonitor(
            *(federation, site, NAMESPACE, own_keys),
            lambda news: found.tell(news),  # noqa: PLW0108 -- it is made below
            executor,
        )
        watching.sockets._open_one = open_and_note
        kernel = watching._kernel
        assert isinstance(kernel, BlockedKernel)
        found = Running(watching, kernel)
        task = asyncio.create_task(watching.run())
        try:
            watching.set_ports(PORTS)
            await until(lambda: kernel.began.is_set() and bool(found.told))
            yield found
            assert not task.done(), task
        finally:
            kernel.released.set()
            task.cancel()
            await asyncio.wait([task])
            watching.close()


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(monitor, "Kernel", BlockedKernel)
    monkeypatch.setattr(
        status_file, "write_status", lambda one, _: write_status(one, tmp_path / "s")
    )


@asynchronous
async def test_a_port_that_flaps_fills_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with running(federation(), "a") as a:
        a.kernel.released.set()
        await until(lambda: bool(a.told))
        for _ in range(50):
            for up1 in (PortState.DOWN, PortState.UP):
                a.monitor.set_ports(PORTS | {"up1": up1})
                await asyncio.sleep(0)
        await until(lambda: a.kernel.obeyed[-1].orders == a.monitor._plan.orders)
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line.startswith("uplink up1")] == [
        "uplink up1: port up",
        "uplink up1: port down",
        "uplink up1: port up",
        "uplink up1: port down",
    ]
    assert 0 < sum(line.startswith("path up1") for line in lines) <= 2 * 4


@asynchronous
async def test_a_loss_is_told_while_the_kernel_is_busy() -> None:
    """And the next one: nobody waits until the subflows of the first have ended."""
    both = federation()
    async with running(both, "a") as a, running(both, "b"):
        await until(lambda: a.paths() == {("up1", UP), ("up2", UP)})
        a.monitor.set_ports({**PORTS, "up1": PortState.DOWN})
        await until(lambda: a.paths() == {("up1", DOWN), ("up2", UP)})
        a.monitor.set_ports(dict.fromkeys(PORTS, PortState.DOWN))
        await until(lambda: a.paths() == {("up1", DOWN), ("up2", DOWN)})
        assert a.kernel.obeyed == []
        assert a.endpoints() == set()


@asynchronous
async def test_a_task_that_fails_ends_the_others_with_its_reason() -> None:
    """Even when nothing else happens: the process has to end, and be started again."""

    def fail(_probes: object) -> None:
        raise LookupError("a fault of ours")

    with ThreadPoolExecutor(1) as executor:
        watching = UplinkMonitor(federation(), "a", NAMESPACE, own_keys, lambda _: None, executor)
        assert isinstance(watching._kernel, BlockedKernel)
        watching._kernel.released.set()
        watching._send = fail  # type: ignore[method-assign,assignment]
        with pytest.raises(ExceptionGroup) as caught:
            await watching.run()
        watching.close()
    assert [str(error) for error in caught.value.exceptions] == ["a fault of ours"]


@asynchronous
async def test_a_path_that_was_never_heard_says_which_neighbour_is_entered_for_it() -> None:
    """If another answers for it (proxy ARP), nothing comes until the file says so."""
    both = federation()
    async with running(both, "a") as a:
        for path in a.monitor._status().paths:
            mac = port_mac(both.site("b"), f"wan-{path.peer_uplink}")
            assert f"is entered as lladdr {mac}: if another answers for it" in path.why
            assert "write 'mac: dynamic' for it" in path.why
        a.kernel.released.set()
        async with running(both, "b") as b:
            b.kernel.released.set()
            await until(lambda: a.paths() == {("up1", UP), ("up2", UP)})
            assert not [path for path in a.monitor._status().paths if "lladdr" in path.why]


@asynchronous
async def test_a_kernel_that_was_busy_obeys_what_holds_then() -> None:
    both = federation()
    async with running(both, "a") as a:
        a.monitor.set_ports({**PORTS, "up1": PortState.DOWN})
        await until(lambda: ("up1", DOWN) in a.paths())
        a.kernel.released.set()
        await until(lambda: a.endpoints() == {"up1", "up2"})
        assert {plan.orders.usable for plan in a.kernel.obeyed} == {frozenset({"up2"})}


@asynchronous
async def test_a_reload_while_the_kernel_is_busy_is_acted_on_at_once() -> None:
    """Probes leave from the new addresses, and nothing is done for the old ones afterwards."""
    both = federation()
    moved = with_another_address(both)
    async with running(both, "a") as a:
        await until(lambda: a.addresses() == {"127.18.0.1", "127.18.0.2"})
        a.opened.clear()
        a.monitor.set_federation(moved, "moved")
        await until(lambda: len(a.opened) == 3)
        assert a.addresses() == {"127.18.0.3"}, "what did not change goes on as it was"
        async with running(moved, "b"):
            await until(lambda: a.paths() == {("up1", UP), ("up2", UP)})
        assert a.kernel.obeyed == []
        a.opened.clear()
        a.kernel.released.set()
        await until(lambda: a.endpoints() == {"up1", "up2"})
        assert {plan.site for plan in a.kernel.obeyed} == {moved.site("a")}
        assert a.opened == []


@asynchronous
async def test_the_port_of_a_new_uplink_is_known() -> None:
    """Nothing happens to it, so Open vSwitch says nothing of it."""
    both = federation()
    a, b = both.sites
    one = replace(both, sites=(replace(a, uplinks=a.uplinks[:1]), b))
    async with running(one, "a") as site:
        site.monitor.set_ports({"up1": PortState.UP, "up2": PortState.DOWN})
        site.monitor.set_federation(both, "more")
        await until(lambda: ("up2", DOWN) in site.paths())
        site.monitor.set_federation(one, "fewer")
        site.monitor.set_ports({"up1": PortState.UP})
        site.monitor.set_federation(both, "more")
        await until(lambda: ("up2", DOWN) in site.paths())
        assert site.monitor._status().uplinks[1].port is PortState.ABSENT


@pytest.mark.parametrize("error", [OSError(99, "not there"), OSError("odd")])
@asynchronous
async def test_an_uplink_that_cannot_be_probed_keeps_no_other_from_it(error: Exception) -> None:
    """Whatever the error is."""

    def open_second(uplink: Uplink, port: int, peer: Address | None) -> socket.socket:
        if uplink.name == "up1":
            raise error
        opened.append(peer)
        return open_socket(uplink, port, peer)

    both = federation()
    a, b = both.sites
    opened: list[Address | None] = []
    sockets = ProbeSockets(
        asyncio.get_running_loop(), lambda _: None, lambda work: work(), open_second
    )
    ways = [(uplink.name, other.address.ip) for uplink in a.uplinks for other in b.uplinks]
    sockets.want(a.uplinks, ways, both.proxy_port)
    (trouble,) = sockets.open()
    sockets.close()
    assert trouble.startswith("no probes over up1: ")
    assert "None" not in trouble
    assert opened == [None, *(other.address.ip for other in b.uplinks)]


@asynchronous
async def test_in_a_new_namespace_all_sockets_are_opened_anew() -> None:
    """The old ones keep the old one alive."""
    both = federation()
    a, b = both.sites
    place = "old"
    opened: list[Address | None] = []

    def open_and_note(uplink: Uplink, port: int, peer: Address | None) -> socket.socket:
        opened.append(peer)
        return open_socket(uplink, port, peer)

    sockets = ProbeSockets(
        *(asyncio.get_running_loop(), lambda _: None, lambda work: work()),
        open_and_note,
        lambda: place,
    )
    ways = [(uplink.name, other.address.ip) for uplink in a.uplinks for other in b.uplinks]
    sockets.want(a.uplinks, ways, both.proxy_port)
    assert sockets.open() == sockets.open() == []
    assert len(opened) == len(a.uplinks) + len(ways)
    place = "new"
    assert sockets.open() == sockets.open() == []
    assert len(opened) == 2 * (len(a.uplinks) + len(ways))
    sockets.close()
