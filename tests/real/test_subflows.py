"""Subflows read and ended in a lab, under connections between its VMs."""

from __future__ import annotations

import errno
import json
import random
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from fedsdn.bench.subflows import reading
from fedsdn.cli.views import lab_views
from fedsdn.config.model import Address
from fedsdn.errors import FedsdnError
from fedsdn.lab.host import Host
from fedsdn.lab.lab import Lab
from fedsdn.lab.namespaces import Namespace
from fedsdn.lab.wait import wait_until
from fedsdn.mptcp.subflows import Subflows
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.shell import Shell
from tests.real.test_proxy_lab import Pair, Vm, connections

pytestmark = pytest.mark.real

BYTES = 20_000_000
MARK_BYTES = 50_000
"""What a new connection is told by: a ready one, which may have carried requests, sends less."""
LIMIT_SECONDS = 60.0
PAIRS = {("192.0.2.1", "192.0.2.2"), ("2001:db8:2::1", "2001:db8:2::2")}
DECOYS = [
    pair
    for number in range(400)
    for pair in [(f"192.0.2.1{number % 10}", f"198.51.100.{number % 250}"), ("fd00::1", "fd00::2")]
]
"""Pairs without subflows: those of a large federation."""

# Calls of ``Subflows`` on a site's host, one JSON list each line: the method, and its arguments.
_SERVE = """
import json, sys
from dataclasses import asdict
from ipaddress import ip_address
from fedsdn import namespace
from fedsdn.mptcp.requests import SubflowRequests
from fedsdn.mptcp.subflows import Subflows
requests = namespace.inside("fedsdn", SubflowRequests)
with Subflows("fedsdn") as subflows:
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        if method == "read":
            answer = [asdict(one) for one in subflows.read()]
        elif method == "open":
            token, local, remote = arguments
            answer = requests.open_subflow(token, ip_address(local), 99, ip_address(remote), 1080)
        else:
            pairs = {tuple(map(ip_address, pair)) for pair in arguments}
            doomed = subflows.doomed(pairs)
            others = {pair for one in doomed for pair, _ in one.others}
            answer = subflows.end(doomed, dict.fromkeys(others, float("-inf")))
        print(json.dumps(answer, default=str), flush=True)
"""


class SubflowsOf:
    """``Subflows`` of a site."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _call(self, *request: object) -> Any:  # noqa: ANN401 -- JSON
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def read(self) -> list[dict[str, Any]]:
        return list(self._call("read"))

    def end(self, *pairs: tuple[str, str]) -> int:
        return int(self._call("end", *pairs))

    def open(self, token: int, local: str, remote: str) -> None:
        self._call("open", token, local, remote)

    def tokens(self) -> set[int]:
        """Those of connections that have carried ``MARK_BYTES``."""
        sent: Counter[int] = Counter()
        for one in self.read():
            sent[one["token"]] += one["bytes_sent"]
        return {token for token, count in sent.items() if count >= MARK_BYTES}


@contextmanager
def subflows_of(host: Host) -> Iterator[SubflowsOf]:
    with subprocess.Popen(
        [*host.prefix, sys.executable, "-c", _SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield SubflowsOf(process)


@pytest.fixture
def at_a(lab: Lab) -> Iterator[SubflowsOf]:
    with subflows_of(lab.host("a")) as subflows:
        yield subflows


@pytest.fixture
def ends(lab: Lab) -> tuple[Vm, Vm]:
    return Vm(lab, "a", "vm1", 4), Vm(lab, "b", "vm2", 4)


def proxy_of(lab: Lab, site: str) -> Namespace:
    pid = lab.host(site).process.pid
    return Namespace(Path(f"/proc/{pid}/root/run/netns/{PROXY_NAMESPACE}"))


def is_whole(subflows: list[dict[str, Any]]) -> bool:
    """Whether a connection has the subflow that it began with, and another one."""
    return {one["kind"] for one in subflows} == {"first", "joined"}


@contextmanager
def whole_connection(
    at_a: SubflowsOf, ends: tuple[Vm, Vm]
) -> Iterator[tuple[Pair, list[dict[str, Any]]]]:
    """A connection that no test has taken a subflow from, and its subflows.

    One that was ready may have lost its first in the test before.
    """
    with ExitStack() as stack:

        def opened() -> tuple[Pair, list[dict[str, Any]]]:
            before = at_a.tokens()
            (pair,) = stack.enter_context(connections(*ends))
            return pair, both_subflows(at_a, before, pair)

        pair, subflows = opened()
        while not is_whole(subflows):
            pair, subflows = opened()
        yield pair, subflows


@contextmanager
def telling() -> Iterator[threading.Event]:
    """An event that others wait for: it is set when the block ends, whatever happens."""
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()


def ports_of(sender: socket.socket, receiver: socket.socket) -> str:
    """Match what one end of a connection sends to the other."""
    return f"tcp sport {sender.getsockname()[1]} tcp dport {receiver.getsockname()[1]}"


def pair_of(subflow: dict[str, Any]) -> tuple[str, str]:
    return subflow["local"], subflow["remote"]


def name_of(subflow: dict[str, Any]) -> tuple[str, int, str, int]:
    return tuple(subflow[field] for field in ("local", "local_port", "remote", "remote_port"))


def both_subflows(at_a: SubflowsOf, before: set[int], pair: Pair) -> list[dict[str, Any]]:
    """Wait for the one new connection's two subflows."""
    move(*pair, seed=0, count=MARK_BYTES)

    def found() -> list[dict[str, Any]]:
        new = at_a.tokens() - before
        return [one for one in at_a.read() if one["token"] in new]

    wait_until(lambda: len(found()) == 2, LIMIT_SECONDS, lambda: f"not two subflows: {found()}")
    return found()


def move(sender: socket.socket, receiver: socket.socket, seed: int, count: int = BYTES) -> None:
    """Move data that the receiver compares."""
    data = random.Random(seed).randbytes(count)  # noqa: S311 -- no secrets
    with ThreadPoolExecutor() as threads:
        sent = threads.submit(sender.sendall, data)
        received = bytearray()
        while len(received) < count:
            part = receiver.recv(1 << 16)
            assert part, f"the connection ended after {len(received)} bytes"
            received += part
        sent.result()
    assert received == data


def move_until(
    over: threading.Event, sender: socket.socket, receiver: socket.socket, seed: int
) -> None:
    """Move data that the receiver compares, until somebody has had enough."""
    data = random.Random(seed).randbytes(1 << 16)  # noqa: S311 -- no secrets

    def send() -> None:
        last = False
        while not last:
            last = over.is_set()
            sender.sendall(data + bytes([last]))

    with ThreadPoolExecutor() as threads:
        sent, last = threads.submit(send), False
        while not last:
            received = b""
            while len(received) <= len(data):
                part = receiver.recv(len(data) + 1 - len(received))
                assert part, "the connection ended"
                received += part
            assert received[:-1] == data
            last = bool(received[-1])
        sent.result()


def test_both_subflows_of_a_connection_are_read(at_a: SubflowsOf, ends: tuple[Vm, Vm]) -> None:
    with whole_connection(at_a, ends) as ((client, server), subflows):
        assert {pair_of(one) for one in subflows} == PAIRS
        (token,) = {one["token"] for one in subflows}
        move(client, server, 1)
        found = [one for one in at_a.read() if one["token"] == token]
        assert sum(one["bytes_sent"] for one in found) >= BYTES
        assert all(one["rtt_ms"] > 29 for one in found), "the wires' delay"


@pytest.mark.parametrize("kind", ["first", "joined"])
def test_a_connection_goes_on_without_an_ended_subflow(
    at_a: SubflowsOf, ends: tuple[Vm, Vm], kind: str
) -> None:
    near, far = ends
    with (
        whole_connection(at_a, ends) as ((client, server), subflows),
        near.filtering(f"{ports_of(server, client)} tcp flags rst counter"),
        far.filtering(f"{ports_of(client, server)} tcp flags rst counter"),
        ThreadPoolExecutor() as threads,
        telling() as over,
    ):
        token = subflows[0]["token"]
        (doomed,) = [pair_of(one) for one in subflows if one["kind"] == kind]
        moves = (
            threads.submit(move_until, over, client, server, 2),
            threads.submit(move_until, over, server, client, 3),
        )

        def busy() -> bool:
            found = [one for one in at_a.read() if one["token"] == token]
            return all(min(one["bytes_sent"], one["bytes_received"]) > BYTES / 50 for one in found)

        wait_until(busy, LIMIT_SECONDS, lambda: "nothing moves")
        assert at_a.end(*PAIRS) == 0, "it would have none left"
        assert at_a.end(*DECOYS, doomed) >= 1  # and those of connections that are ready
        assert not any(one.done() for one in moves), "it was to be ended in mid-transfer"
        left = [name_of(one) for one in at_a.read() if one["token"] == token]
        (ended,) = [name_of(one) for one in subflows if one["kind"] == kind]
        (other,) = [name_of(one) for one in subflows if one["kind"] != kind]
        assert other in left
        assert ended not in left
        # Its path lives, so that the proxy opens another.
        wait_until(
            lambda: {pair_of(one) for one in at_a.read() if one["token"] == token} == PAIRS,
            LIMIT_SECONDS,
            lambda: "no other is opened",
        )
        over.set()
        for one in moves:
            one.result()
        move(client, server, 4)
        assert "packets 0" in near.run("nft list table inet test")
        assert "packets 0" in far.run("nft list table inet test")


def test_nothing_to_end(at_a: SubflowsOf, ends: tuple[Vm, Vm]) -> None:
    before = at_a.tokens()
    with connections(*ends) as [pair]:
        both_subflows(at_a, before, pair)
        assert at_a.end() == 0
        assert at_a.end(*DECOYS) == 0
        assert len(both_subflows(at_a, before, pair)) == 2


@pytest.mark.parametrize("protocol", [0, socket.IPPROTO_MPTCP], ids=["TCP", "MPTCP"])
def test_a_fallback_is_read_but_not_ended(lab: Lab, at_a: SubflowsOf, protocol: int) -> None:
    """Whoever asked for it, it is known by one end that is plain TCP."""
    proxy = proxy_of(lab, "a")
    with proxy.listen("192.0.2.1") as listener:
        _, port = listener.getsockname()
        with proxy.connect("192.0.2.1", port, protocol=protocol) as sock:
            pair = ("192.0.2.1", "192.0.2.1")
            found = [one for one in at_a.read() if pair_of(one) == pair]
            assert [one["kind"] for one in found] == ["fallback", "fallback"]
            assert at_a.end(pair) == 0
            other, _ = listener.accept()
            with other:
                other.sendall(b"alive")
                assert sock.recv(100) == b"alive"


def test_a_subflow_without_an_answer_is_ended(at_a: SubflowsOf, ends: tuple[Vm, Vm]) -> None:
    with whole_connection(at_a, ends) as (_, subflows):
        (first,) = [one for one in subflows if one["kind"] == "first"]
        # The joined subflow's local address has an identifier already; another one is refused.
        local, remote = pair = first["local"], first["remote"] + "9"
        at_a.open(first["token"], local, remote)
        assert at_a.end(pair) == 1
        assert at_a.end(pair) == 0


def test_a_connection_without_an_answer_is_not_ended(lab: Lab, at_a: SubflowsOf) -> None:
    """It has nothing but this; who opened it tries another path by itself."""
    with proxy_of(lab, "a").open("192.0.2.1", socket.IPPROTO_MPTCP) as sock:
        sock.setblocking(False)
        sock.bind(("192.0.2.1", 0))
        assert sock.connect_ex(("192.0.2.99", 1080)) == errno.EINPROGRESS
        assert at_a.end(("192.0.2.1", "192.0.2.99")) == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_connections_to_vms_are_not_read(at_a: SubflowsOf, ends: tuple[Vm, Vm]) -> None:
    with connections(*ends, count=10):
        assert {pair_of(one) for one in at_a.read()} <= PAIRS


def test_a_benchmark_reads_them_at_the_site(
    lab: Lab, at_a: SubflowsOf, ends: tuple[Vm, Vm]
) -> None:
    (view,) = [one for one in lab_views(lab) if one.name == "a"]
    addresses = [ip_address(local) for local, _ in PAIRS]
    before = at_a.tokens()

    def counts_what_is_read(address: Address) -> bool:
        """Ready connections come and go between the two."""
        found = [one for one in at_a.read() if one["local"] == str(address)]
        return reader.count(address) == len(found) > 0

    with reading(view) as reader, connections(*ends) as [pair]:
        opened = {pair_of(one)[0] for one in both_subflows(at_a, before, pair)}
        assert opened == {local for local, _ in PAIRS}
        for address in addresses:
            wait_until(partial(counts_what_is_read, address), LIMIT_SECONDS, lambda: "they differ")
        assert reader.count(ip_address("192.0.2.99")) == 0
        assert reader.busy() == []
        move(*pair, 5)
        busy = reader.busy()
        assert {one.local for one in busy} == set(addresses)
        assert all(one.rtt_ms > 29 for one in busy), "the wires' delay"


def test_a_benchmark_is_told_why_they_cannot_be_read(lab: Lab) -> None:
    view = replace(lab_views(lab)[0], shell=Shell("here", ("ip", "netns", "exec", "no-such")))
    with pytest.raises(FedsdnError, match="no-such"), reading(view) as reader:
        reader.busy()


def test_a_missing_namespace_is_one_line() -> None:
    with pytest.raises(FedsdnError, match=r"^network namespace no-such is missing: .*$"):
        Subflows("no-such")
