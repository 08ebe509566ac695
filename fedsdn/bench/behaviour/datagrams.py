"""What is not TCP: datagrams, fragments, errors about them, and other protocols of IP."""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import ExitStack, suppress
from functools import partial
from itertools import pairwise

from fedsdn.bench.behaviour.case import (
    NEVER_OPEN,
    Case,
    Difference,
    Ends,
    both,
    error_word,
    port_of,
    tell,
)
from fedsdn.bench.behaviour.exchange import (
    AGAIN_SECONDS,
    LARGEST,
    TIMES,
    Name,
    ancillary,
    asked,
    both_ways,
    echoing,
    name_of,
    opened,
)
from fedsdn.bench.guests import DEVICE, Guest
from fedsdn.bench.segments import datagram, fragments

_LEVELS = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}
_HEADERS = {4: 20 + 8, 6: 40 + 8}
"""Of IP and UDP, in bytes."""
_MTU_DISCOVER = {4: 10, 6: 23}
_MTU = {4: 14, 6: 24}
_NEVER_FRAGMENT = 2
"""Linux ``linux/in.h``, ``linux/in6.h``: IP_MTU_DISCOVER, IP_MTU, IP_PMTUDISC_DO, and IPv6's."""
_TELL_ERRORS = {4: 11, 6: 25}
_IP_RECEIVE_TTL = 12
"""Linux ``linux/in.h``: IP_RECVERR, IPV6_RECVERR, IP_RECVTTL."""
_CLASS = {4: (socket.IP_TOS, socket.IP_RECVTOS), 6: (socket.IPV6_TCLASS, socket.IPV6_RECVTCLASS)}
_LIVES = {
    4: (socket.IP_TTL, _IP_RECEIVE_TTL, socket.IP_TTL),
    6: (socket.IPV6_UNICAST_HOPS, socket.IPV6_RECVHOPLIMIT, socket.IPV6_HOPLIMIT),
}
"""Options: to send with, to be told of what comes, and what is told then."""
_EXPEDITED_AND_CAPABLE = 0xBA
"""DSCP EF (RFC 3246) and ECT(0) (RFC 3168)."""
_TTL = 64

_JUMBO_BYTES = 9000
_FRAGMENTED_BYTES = 1200
_NUMBERED = 200
_LEAST_SECONDS = 0.001
_NUMBER = struct.Struct("!I")

_GROUPS = {4: "239.255.77.1", 6: "ff05::4d:1"}
_GROUP_PORT = 15020
_GROUP_HOPS = 8

_CRC32C = 0x82F63B78
_INIT_TAG = 0x0BADCAFE


def _echo(ends: Ends, size: int) -> str:
    """Have so many bytes come back; ``size`` 0 fills the client's MTU."""
    if not size:
        mtu = int(ends.client.run("cat", f"/sys/class/net/{DEVICE}/mtu"))
        size = mtu - _HEADERS[ends.family]
    with opened(ends.client, ends.family) as client, opened(ends.server, ends.family) as server:
        with echoing(server) as seen:
            if not asked(client, os.urandom(size), name_of(server)):
                return "nothing"
        return "comes back" if seen == {name_of(client)} else f"from {seen}"


def _told_of_mtu(ends: Ends) -> str:
    """Fill the MTU, and allow no fragments: less has to go where the network carries less."""
    level = _LEVELS[ends.family]
    size = int(ends.client.run("cat", f"/sys/class/net/{DEVICE}/mtu"))
    with (
        opened(ends.client, ends.family) as client,
        opened(ends.server, ends.family) as server,
        echoing(server),
    ):
        client.setsockopt(level, _MTU_DISCOVER[ends.family], _NEVER_FRAGMENT)
        client.connect(name_of(server))
        told = False
        for _ in range(TIMES):
            try:
                client.send(os.urandom(size - _HEADERS[ends.family]))
                client.recv(LARGEST)
            except TimeoutError:
                continue
            except OSError as error:
                told, size = True, client.getsockopt(level, _MTU[ends.family])
                if "long" not in error_word(error):
                    raise
                continue
            return "less, of which it is told" if told else "all"
    return "nothing"


def _headers(ends: Ends) -> str:
    level, (mark, marks) = _LEVELS[ends.family], _CLASS[ends.family]
    hops, receive_hops, hops_came = _LIVES[ends.family]
    with opened(ends.client, ends.family) as client, opened(ends.server, ends.family) as server:
        client.setsockopt(level, mark, _EXPEDITED_AND_CAPABLE)
        client.setsockopt(level, hops, _TTL)
        for option in (marks, receive_hops):
            server.setsockopt(level, option, 1)
        for _ in range(TIMES):
            client.sendto(b"hello", name_of(server))
            with suppress(TimeoutError):
                _, beside, _, _ = server.recvmsg(LARGEST, 256)
                came = ancillary(beside)
                kept = came[level, mark] == _EXPEDITED_AND_CAPABLE
                lost = _TTL - came[level, hops_came]
                return f"{'' if kept else 'not '}kept, {lost} hops"
    return "nothing"


def _error(ends: Ends, address: str) -> str:
    """Say what a client hears of an address where nobody takes its datagrams."""
    with opened(ends.client, ends.family) as client:
        client.setsockopt(_LEVELS[ends.family], _TELL_ERRORS[ends.family], 1)
        client.connect((address, NEVER_OPEN))
        for _ in range(TIMES):
            try:
                client.send(b"hello")
                client.recv(LARGEST)
            except TimeoutError:
                continue
            except OSError as error:
                return error_word(error)
    return "nothing"


def _closed(ends: Ends) -> str:
    return _error(ends, ends.address)


def _missing(ends: Ends) -> str:
    return _error(ends, ends.missing[0])


def _order(ends: Ends) -> str:
    """Send many at once, and a last one until it comes.

    Everybody on the way knows his neighbours by then: who asks for them holds packets back.
    """
    came: list[int] = []
    with opened(ends.client, ends.family) as client, opened(ends.server, ends.family) as server:
        with echoing(server):
            asked(client, b"first", name_of(server))
        server.settimeout(AGAIN_SECONDS)
        for number in range(_NUMBERED):
            client.sendto(_NUMBER.pack(number), name_of(server))
        for _ in range(TIMES):
            client.sendto(_NUMBER.pack(_NUMBERED), name_of(server))
            with suppress(TimeoutError):
                while not came or came[-1] != _NUMBERED:
                    came += _NUMBER.unpack(server.recv(LARGEST))
                break
    twice = len(came) - len(set(came))
    swapped = sum(one > other for one, other in pairwise(came))
    many = "most" if len(came) > _NUMBERED // 2 else f"{len(came)} of {_NUMBERED}"
    return f"{many}, {swapped} swapped, {twice} twice"


def _fragments(ends: Ends, parts: int) -> str:
    """Send one in fragments, the last one first, beside a kernel that makes none as small."""
    data = os.urandom(_FRAGMENTED_BYTES)
    here, there = ends.client.address(ends.family), ends.address
    with (
        opened(ends.client, ends.family) as client,
        opened(ends.server, ends.family) as server,
        ends.client.raw(ends.family, socket.IPPROTO_RAW) as raw,
    ):
        whole = datagram((here, port_of(client)), (there, port_of(server)), data)
        for _ in range(TIMES):
            for one in reversed(fragments(here, there, socket.IPPROTO_UDP, whole, parts)):
                raw.sendto(one, (there, 0))
            with suppress(TimeoutError):
                came, name = server.recvfrom(LARGEST)
                return "whole" if (came, name[:2]) == (data, name_of(client)) else "others"
    return "nothing"


def _multicast(ends: Ends) -> str:
    """Send to a group that the server is in, and then to the server alone until that comes."""
    group = _GROUPS[ends.family]
    words = (os.urandom(16), os.urandom(16))
    with opened(ends.client, ends.family) as client, _listening(ends.server, group) as server:
        _send_from(ends.client, client, ends.family)
        for _ in range(TIMES):
            client.sendto(words[0], (group, _GROUP_PORT))
            client.sendto(words[1], (ends.address, _GROUP_PORT))
            heard = set()
            with suppress(TimeoutError):
                while words[1] not in heard:
                    heard.add(server.recv(LARGEST))
                return "heard" if words[0] in heard else "not heard"
    return "nothing"


def _listening(vm: Guest, group: str) -> socket.socket:
    """Return a socket that hears what goes to a group."""
    kind = socket.AF_INET6 if ":" in group else socket.AF_INET
    sock = vm.namespace.call(lambda: socket.socket(kind, socket.SOCK_DGRAM))
    sock.settimeout(AGAIN_SECONDS)
    sock.bind(("", _GROUP_PORT))
    packed = socket.inet_pton(kind, group)
    if kind == socket.AF_INET:
        join = packed + socket.inet_pton(kind, vm.address(4))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
    else:
        join = packed + struct.pack("i", _index(vm))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, join)
    return sock


def _send_from(vm: Guest, sock: socket.socket, family: int) -> None:
    level = _LEVELS[family]
    if family == 4:
        device = socket.inet_pton(socket.AF_INET, vm.address(4))
        sock.setsockopt(level, socket.IP_MULTICAST_IF, device)
        sock.setsockopt(level, socket.IP_MULTICAST_TTL, _GROUP_HOPS)
    else:
        sock.setsockopt(level, socket.IPV6_MULTICAST_IF, _index(vm))
        sock.setsockopt(level, socket.IPV6_MULTICAST_HOPS, _GROUP_HOPS)


def _index(vm: Guest) -> int:
    return vm.namespace.call(lambda: socket.if_nametoindex(DEVICE))


def flows(ends: Ends) -> str:
    """Have many flows at once, each of which is asked until it answers."""
    side = round(ends.lengths.flows**0.5)
    with ExitStack() as stack:
        clients, servers = (
            [stack.enter_context(opened(vm, ends.family)) for _ in range(side)]
            for vm in (ends.client, ends.server)
        )
        stack.enter_context(echoing(*servers))
        names = [name_of(server) for server in servers]
        done = sum(_ask_all(clients, names[turn:] + names[:turn]) for turn in range(side))
    return tell(done, side * side)


def _ask_all(clients: list[socket.socket], servers: list[Name]) -> int:
    """Ask a server with each client, all at once; return how many were answered."""
    question = os.urandom(8)
    waiting = dict(zip(clients, servers, strict=True))
    for _ in range(TIMES):
        for client, server in waiting.items():
            client.sendto(question, server)
        until = time.monotonic() + AGAIN_SECONDS
        waiting = {
            client: server
            for client, server in waiting.items()
            if not _answered(client, question, until)
        }
        if not waiting:
            break
    return len(clients) - len(waiting)


def _answered(client: socket.socket, question: bytes, until: float) -> bool:
    client.settimeout(max(until - time.monotonic(), _LEAST_SECONDS))
    with suppress(TimeoutError):
        while client.recv(LARGEST) != question:
            pass  # the answer to a question before, which was asked twice
        return True
    return False


def _protocol(ends: Ends, number: int) -> str:
    """Send packets of a protocol that neither VM's kernel knows, and have them answered."""
    first, answer = _PACKETS[number]
    names = (ends.client.address(ends.family), ends.address)
    with (
        ends.client.raw(ends.family, number) as client,
        ends.server.raw(ends.family, number) as server,
    ):
        for _ in range(TIMES):
            client.sendto(first, (names[1], 0))
            with suppress(TimeoutError):
                came, name = _received(server, ends.family)
                if (came, name) != (first, names[0]):
                    return "others"
                server.sendto(answer, (names[0], 0))
                return "both" if _received(client, ends.family) == (answer, names[1]) else "others"
    return "nothing"


def _received(sock: socket.socket, family: int) -> tuple[bytes, str]:
    """Receive a packet without its header of IP, which raw sockets of IPv4 give too."""
    sock.settimeout(AGAIN_SECONDS)
    packet, name = sock.recvfrom(LARGEST)
    return packet[(packet[0] & 0x0F) * 4 if family == 4 else 0 :], name[0]


def _sctp(kind: int, tag: int, more: bytes = b"") -> bytes:
    """Make the first or second packet of an association (RFC 9260, sections 3.1, 3.3.2)."""
    value = struct.pack("!IIHHI", _INIT_TAG, 1 << 16, 1, 1, 1) + more
    chunk = struct.pack("!BBH", kind, 0, 4 + len(value)) + value
    header = struct.pack("!HHI", 15021, 15021, tag)
    return header + struct.pack("<I", crc32c(header + bytes(4) + chunk)) + chunk


def crc32c(data: bytes) -> int:
    """Return SCTP's checksum (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CRC32C if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


_GRE, _ESP, _SCTP, _EXPERIMENT = 47, 50, 132, 253
_STATE_COOKIE = struct.pack("!HH", 7, 8) + b"cook"
_PACKETS = {
    _GRE: (bytes.fromhex("0000 88b5") + b"there", bytes.fromhex("0000 88b5") + b"back"),
    _ESP: (struct.pack("!II", 0x1001, 1) + bytes(64), struct.pack("!II", 0x1002, 1) + bytes(64)),
    _SCTP: (_sctp(1, 0), _sctp(2, _INIT_TAG, _STATE_COOKIE)),
    _EXPERIMENT: (b"there", b"back"),
}
"""What is sent of each, and what is answered (RFC 2784, RFC 4303, RFC 3692)."""

_ROUTED = Difference(
    "kept, 2 hops", "what is not TCP is routed: the proxies of both sites are a hop each"
)
_NARROW = Difference(
    "less, of which it is told", "the tunnels between the sites take some of the uplinks' MTU"
)
_NO_GROUPS = Difference(
    "not heard", "multicast stays in its network: only what goes to a peer's prefix is carried"
)

CASES = (
    Case("UDP", "1,000 bytes there and back, from either", both_ways(partial(_echo, size=1000)),
         both("comes back")),
    Case("UDP, full MTU", "what fills the client's MTU", both_ways(partial(_echo, size=0)),
         both("comes back")),
    Case("UDP, 9,000 bytes", "which the client's kernel cuts",
         both_ways(partial(_echo, size=_JUMBO_BYTES)), both("comes back")),
    Case("UDP, path MTU", "what fills the client's MTU and may not be cut",
         both_ways(_told_of_mtu), both("all"), _NARROW),
    Case("UDP, headers", "DSCP, ECN and TTL", both_ways(_headers), both("kept, 0 hops"), _ROUTED),
    Case("UDP, closed port", "where nobody listens", both_ways(_closed),
         both("Connection refused")),
    Case("UDP, nobody", "to an address that nobody has", _missing, both("No route to host"),
         seconds=5),
    Case("UDP, order", f"of {_NUMBERED} sent at once", both_ways(_order),
         both("most, 0 swapped, 0 twice")),
    Case("UDP, fragments", "two, the last one first", both_ways(partial(_fragments, parts=2)),
         both("whole")),
    Case("UDP, many fragments", "twelve, the last one first",
         both_ways(partial(_fragments, parts=12)), both("whole")),
    Case("UDP, flows", "very many at once, each with its answer", flows, both("all"), seconds=20),
    Case("multicast", "to a group that the server is in", both_ways(_multicast), both("heard"),
         _NO_GROUPS),
    Case("SCTP", "INIT, and its answer", both_ways(partial(_protocol, number=_SCTP)),
         both("both")),
    Case("GRE", "a packet each way", both_ways(partial(_protocol, number=_GRE)), both("both")),
    Case("ESP", "a packet each way", both_ways(partial(_protocol, number=_ESP)), both("both")),
    Case("IP protocol 253", "a packet each way, of a protocol that nobody knows",
         both_ways(partial(_protocol, number=_EXPERIMENT)), both("both")),
)  # fmt: skip
