"""What TCP and IP headers carry besides the data."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from fedsdn.bench.behaviour.case import (
    Case,
    Difference,
    Ends,
    both,
    in_thread,
    read_exactly,
    tell,
)
from fedsdn.bench.guests import DEVICE
from fedsdn.bench.segments import Opening
from fedsdn.mptcp.connection import tcp_info
from fedsdn.mptcp.info import ECN

_LARGE = bytes(range(256)) * 1000
_LEAST_MSS = 88
"""Linux ``TCP_MIN_MSS``."""
_JUMBO_MTU = 9040
_EXPEDITED, _CLASS_1 = 0xB8, 0x20
"""IPv4's type of service: DSCP EF (RFC 3246) and CS1 (RFC 2474), no ECN."""
_DSCP = {_EXPEDITED: "ef", _CLASS_1: "cs1"}


def _large_both_ways(ends: Ends) -> str:
    with ends.connected() as (client, server):
        return _exchange(client, server)


def _exchange(client: socket.socket, server: socket.socket) -> str:
    seen = 0
    for sender, receiver in ((client, server), (server, client)):
        sending = in_thread(sender.sendall, _LARGE)
        seen += read_exactly(receiver, len(_LARGE)) == _LARGE
        sending.join()
    return tell(seen, 2)


def _without(option: str) -> Callable[[Ends], str]:
    def run(ends: Ends) -> str:
        with ends.client.sysctls(**{option: 0}):
            first = _large_both_ways(ends)
        with ends.server.sysctls(**{option: 0}):
            return f"{first}, {_large_both_ways(ends)}"

    return run


def _small_segments(ends: Ends) -> str:
    with ends.listen() as listener, ends.client.open(ends.family) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _LEAST_MSS)
        client.connect(listener.getsockname()[:2])
        server, _ = listener.accept()
        with server:
            server.settimeout(client.gettimeout())
            return _exchange(client, server)


def _large_segments(ends: Ends) -> str:
    """Have the client offer an MSS of 9,000, though its network carries no more than others'."""
    link = ("ip", "link", "set", DEVICE, "mtu")
    before = ends.client.run("cat", f"/sys/class/net/{DEVICE}/mtu").strip()
    ends.client.run(*link, str(_JUMBO_MTU))
    try:
        return _large_both_ways(ends)
    finally:
        ends.client.run(*link, before)


def _explicit_congestion(ends: Ends) -> str:
    with (
        ends.client.sysctls(tcp_ecn=1),
        ends.server.sysctls(tcp_ecn=1),
        ends.connected() as pair,
    ):
        agreed = [_yes(seen=bool(tcp_info(one).options & ECN)) for one in pair]
    return f"client: {agreed[0]}, server: {agreed[1]}"


def _service_class(ends: Ends) -> str:
    """Have the client mark its connection, and count what comes so marked at the server."""
    with ExitStack() as stack:
        client = stack.enter_context(ends.client.open(ends.family))
        _mark(client, ends, _EXPEDITED)
        listener = stack.enter_context(ends.listen())
        marked = stack.enter_context(ends.server.counting(_marked(ends, _EXPEDITED)))
        client.connect(listener.getsockname()[:2])
        server = stack.enter_context(listener.accept()[0])
        opened = marked.packets
        client.sendall(b"hello")
        read_exactly(server, 5)
        seen = marked.packets
    return f"SYN: {_yes(seen=opened > 0)}, data: {_yes(seen=seen > opened)}"


def _service_class_of_answers(ends: Ends) -> str:
    with ends.connected() as (client, server):
        _mark(server, ends, _CLASS_1)
        with ends.client.counting(_marked(ends, _CLASS_1)) as marked:
            server.sendall(b"hello")
            read_exactly(client, 5)
            return _yes(seen=marked.packets > 0)


def _mark(sock: socket.socket, ends: Ends, service: int) -> None:
    if ends.family == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, service)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, service)


def _marked(ends: Ends, service: int) -> str:
    header = "ip" if ends.family == 4 else "ip6"
    return f"{header} dscp {_DSCP[service]} meta l4proto tcp"


def _yes(*, seen: bool) -> str:
    return "yes" if seen else "no"


def _fragments(ends: Ends, size: int) -> str:
    """Send a segment of so many bytes in two fragments, beside a kernel that sends none."""
    data = _LARGE[:size]
    with ends.listen() as listener, Opening(ends.client, ends.address, listener) as opening:
        opening.connect()
        server, _ = listener.accept()
        with server:
            server.settimeout(listener.gettimeout())
            opening.send(data, parts=2)
            return tell(len(read_exactly(server, len(data))), len(data))


_NO_ANSWERS_CLASS = Difference(
    "no", "the proxy learns a connection's class from its SYN, and never reads answers' headers"
)
_NO_TINY_FRAGMENTS = Difference(
    "nothing", "Open vSwitch's userspace datapath tracks no fragments below 1,200 bytes"
)

CASES = (
    Case("no timestamps", "at the client, then at the server", _without("tcp_timestamps"),
         both("all, all"), seconds=3),
    Case("no SACK", "at the client, then at the server", _without("tcp_sack"),
         both("all, all"), seconds=3),
    Case("no window scaling", "at the client, then at the server", _without("tcp_window_scaling"),
         both("all, all"), seconds=4),
    Case("MSS 88", "the client takes no larger segments", _small_segments, both("all"), seconds=4),
    Case("MSS 9000", "the client would take larger segments", _large_segments, both("all")),
    Case("ECN", "both ask for it", _explicit_congestion, both("client: yes, server: yes")),
    Case("DSCP", "of the client's packets", _service_class, both("SYN: yes, data: yes")),
    Case("DSCP of answers", "of the server's packets", _service_class_of_answers, both("yes"),
         _NO_ANSWERS_CLASS),
    Case("fragments", "a segment of 2,400 bytes in two", partial(_fragments, size=2400),
         {4: "all"}),
    Case("tiny fragments", "a segment of 1,200 bytes in two", partial(_fragments, size=1200),
         {4: "all"}, _NO_TINY_FRAGMENTS, seconds=20),
)  # fmt: skip
