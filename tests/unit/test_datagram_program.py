"""The test program for datagrams, on loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from fedsdn.errors import FedsdnError
from fedsdn.shell import Shell
from fedsdn.traffic import dns
from fedsdn.traffic.datagram_runner import Streams, ask, dropped, resolve, serving, stream
from fedsdn.traffic.datagrams import _AT_ONCE, _connected, _take
from fedsdn.traffic.echoes import LEAST_BYTES, Stream, answer, message, read
from fedsdn.traffic.runner import PORT

HERE = Shell("here")
ADDRESSES = [ip_address("127.0.0.77"), ip_address("::1")]


@pytest.fixture(scope="module", params=ADDRESSES, ids=["IPv4", "IPv6"])
def address(request: pytest.FixtureRequest) -> Iterator[object]:
    with serving(HERE, request.param):
        yield request.param


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("size", [LEAST_BYTES, 1000, 9000])
def test_a_datagram_is_answered_with_itself(address: object, size: int, whole: bool) -> None:
    found = ask(HERE, address, size, whole=whole)  # type: ignore[arg-type]
    assert (found.error, found.intact, found.size, found.mtu) == (None, True, size, None)
    assert found.local == found.seen


def test_a_port_that_nobody_has_is_an_error(address: object) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1]
    found = ask(HERE, address, 100, port=port)  # type: ignore[arg-type]
    assert found.error == "Connection refused"
    assert found.seen is None


def test_a_question_is_answered(address: object) -> None:
    found = resolve(HERE, address)  # type: ignore[arg-type]
    assert (found.addresses, found.error) == ([str(address)], None)


def test_flows_are_counted_one_by_one(address: object) -> None:
    asked: list[str] = []
    streams = Streams(address, flows=3, seconds=0.2, wait=30.0)  # type: ignore[arg-type]
    flows = stream(HERE, streams, lambda: asked.append("meanwhile"))
    assert asked == ["meanwhile"]
    assert len({flow.port for flow in flows}) == 3
    for flow in flows:
        assert (flow.sent, flow.lost, flow.again, flow.late, flow.errors) == (20, 0, 0, 0, [])
        assert flow.rtt is not None


def test_answers_are_taken_though_it_is_time_to_send(address: object) -> None:
    """Who is behind with sending would else find them lost in a full socket at the end."""
    count = 3 * _AT_ONCE
    with _connected(str(address), PORT) as sock:
        flow = Stream(sock.getsockname()[1], 0.0)
        for number in range(count):
            sock.send(message(number, 100))
            flow.sent(number, 0.0)
        until = time.monotonic() + 30
        while not flow.complete and time.monotonic() < until:
            _take({sock: flow}, 0.0, time.monotonic() - 1)
    assert flow.view().lost == 0


@pytest.mark.parametrize("here", ["127.0.0.1", "::1"])
def test_what_a_full_socket_drops_is_counted(here: str) -> None:
    before = dropped(HERE)
    assert before is not None
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as full:
        full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        full.bind((here, 0))
        with _connected(here, full.getsockname()[1]) as sock:
            for number in range(100):
                sock.send(message(number, 1000))
    after = dropped(HERE)
    assert after is not None
    assert after - before >= 90


def test_what_a_full_socket_drops_is_counted_without_ipv6_too() -> None:
    """With ``ipv6.disable=1`` there is no ``snmp6``, and cat(1) ends with 1."""
    without = Shell("without", ("sh", "-c", '"$1" "$2"; exit 1', "sh"))
    assert isinstance(dropped(without), int)


@pytest.mark.parametrize("prefix", [("false",), ("/no/such/program",), ("echo", "Udp:")])
def test_where_nobody_counts_nothing_is_raised(prefix: tuple[str, ...]) -> None:
    assert dropped(Shell("there", prefix)) is None


def test_an_address_of_somebody_else_is_said() -> None:
    with (
        pytest.raises(FedsdnError, match="Cannot assign requested address"),
        serving(HERE, ip_address("203.0.113.1")),
    ):
        pass


def test_a_datagram_that_was_changed_is_none() -> None:
    sent = message(7, 100)
    back = answer(sent, "192.0.2.1", 99)
    assert back is not None
    came = read(back)
    assert came is not None
    assert (came.number, came.seen, came.same_as(sent)) == (7, ("192.0.2.1", 99), True)
    assert not came.same_as(message(8, 100))
    for place in (0, LEAST_BYTES - 32, 99):
        changed = bytearray(sent)
        changed[place] ^= 1
        assert read(bytes(changed)) is None
        assert answer(bytes(changed), "192.0.2.1", 99) is None
    assert read(sent[: LEAST_BYTES - 1]) is None


def test_lost_late_and_repeated_answers_are_told_apart() -> None:
    flow = Stream(5, interval=1.0)
    for number in range(5):
        flow.sent(number, number * 1.0)
    for number, now in ((0, 0.5), (2, 2.5), (1, 2.6), (2, 2.7)):
        flow.came(number, now)
    view = flow.view()
    assert (view.sent, view.lost, view.again, view.late) == (5, 2, 1, 1)
    assert view.silence == 2.0
    assert view.lossy == 2.0, "the fourth, until the fifth was sent, and the last"
    assert view.rtt == 0.5


def test_a_loss_before_the_sender_stood_still_does_not_stand_for_all_that_time() -> None:
    flow = Stream(5, interval=0.02)
    for number, now in enumerate((0.0, 0.02, 1.02, 1.04)):
        flow.sent(number, now)
    for number in (0, 2, 3):
        flow.came(number, 2.0)
    assert flow.view().lossy == pytest.approx(0.04)


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_a_question_of_dns(address: str) -> None:
    asked = dns.question(9, "vm.example", dns.kind_of(address))
    said = dns.answer(asked, address)
    assert said is not None
    assert dns.addresses(said, 9) == [address]
    assert dns.addresses(said, 8) == []
    assert dns.addresses(asked, 9) == []
    assert dns.answer(said, address) is None, "an answer is no question"
    assert dns.answer(asked[:12], address) is None
    assert dns.addresses(b"", 9) == []
