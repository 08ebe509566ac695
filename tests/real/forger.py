"""Frames that a hostile neighbour sends: whose link-layer address is whose, and ICMP errors.

What is sent about a packet quotes the packet (RFC 792; RFC 4443, section 3).
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, ip_address

from fedsdn.config.model import Address
from fedsdn.lab.namespaces import Namespace

FORGER = "02:00:00:00:00:66"
ALL = "ff:ff:ff:ff:ff:ff"
UDP, TCP, ECHO = 17, 6, 1
"""Protocols by their numbers; ICMP's stands for echo requests, in IPv6, too."""

_EVERY_SECONDS = 0.02
_AGAIN_SECONDS = 0.2
_EVERYTHING = 3
"""ETH_P_ALL."""
_ICMP6 = 58
_TOO_BIG = 4
"""The code of "fragmentation needed"."""


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(payload: bytes, family: int, *, to: str = ALL, mac: str = FORGER) -> bytes:
    kind = 0x86DD if family == 6 else 0x0800
    return mac_bytes(to) + mac_bytes(mac) + struct.pack("!H", kind) + payload


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def ip(
    source: Address, destination: Address, protocol: int, payload: bytes, ttl: int = 64
) -> bytes:
    """Write an IP packet of either family."""
    ends = source.packed + destination.packed
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, ttl) + ends + payload
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 1, 0x4000, ttl, protocol)
    return head + struct.pack("!H", checksum(head + bytes(2) + ends)) + ends + payload


def icmp(source: Address, destination: Address, kind: int, code: int, rest: bytes) -> bytes:
    """Write an ICMP message; ``rest`` follows its checksum."""
    if source.version == 4:
        body = bytes((kind, code)) + struct.pack("!H", checksum(bytes((kind, code, 0, 0)) + rest))
        return ip(source, destination, ECHO, body + rest, 255)
    pseudo = source.packed + destination.packed + struct.pack("!II", 4 + len(rest), _ICMP6)
    summed = checksum(pseudo + bytes((kind, code, 0, 0)) + rest)
    return ip(source, destination, _ICMP6, struct.pack("!BBH", kind, code, summed) + rest, 255)


def too_big(router: Address, about: bytes, mtu: int) -> bytes:
    """Write "fragmentation needed" or "packet too big", about the beginning of a packet."""
    if router.version == 4:
        sender = ip_address(about[12:16])
        return icmp(router, sender, 3, _TOO_BIG, struct.pack("!HH", 0, mtu) + about[:28])
    return icmp(router, ip_address(about[8:24]), 2, 0, struct.pack("!I", mtu) + about[:100])


def unreachable(router: Address, about: bytes) -> list[bytes]:
    """Write "destination unreachable" for every reason there is, about a packet."""
    if router.version == 4:
        sender = ip_address(about[12:16])
        codes = (code for code in range(16) if code != _TOO_BIG)
        return [icmp(router, sender, 3, code, bytes(4) + about[:28]) for code in codes]
    sender = ip_address(about[8:24])
    return [icmp(router, sender, 1, code, bytes(4) + about[:100]) for code in range(7)]


def redirect(router: Address, about: bytes, to: Address) -> bytes:
    """Write a redirect of what a packet is addressed to (RFC 792; RFC 4861, section 4.5)."""
    if router.version == 4:
        return icmp(router, ip_address(about[12:16]), 5, 1, to.packed + about[:28])
    rest = bytes(4) + to.packed + about[24:40]
    return icmp(link_local(), ip_address(about[8:24]), 137, 0, rest)


def link_local() -> Address:
    """Return the forger's link-local address."""
    return ip_address("fe80::ff:fe00:66")


def router(source: Address, to: Address) -> bytes:
    """Write an advertisement: of a router, a prefix for addresses, and an MTU (RFC 4861, 4.2)."""
    prefix = ip_address("fd00:66::").packed
    rest = struct.pack("!BBHII", 64, 0, 1800, 0, 0)
    rest += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + prefix
    rest += struct.pack("!BBHI", 5, 1, 0, 1280)
    return icmp(source, to, 134, 0, rest)


def source_routed(source: Address, to: Address, via: Address, payload: bytes) -> bytes:
    """Write a TCP packet to ``via`` that is to go on to another address (RFC 791; RFC 8200)."""
    if source.version == 6:
        header = struct.pack("!BBBBI", TCP, 2, 0, 1, 0) + to.packed
        return ip(source, via, 43, header + payload)
    option = struct.pack("!BBBB", 1, 131, 7, 4) + to.packed
    head = struct.pack("!BBHHHBB", 0x47, 0, 28 + len(payload), 1, 0x4000, 64, TCP)
    ends = source.packed + via.packed
    return (
        head
        + struct.pack("!H", checksum(head + bytes(2) + ends + option))
        + ends
        + option
        + payload
    )


def claims(claimed: Address, to: Address) -> Iterator[bytes]:
    """Frames by which an address is at ``FORGER``: asked and unasked for, to one or to all."""
    if isinstance(claimed, IPv4Address):
        for kind, target in ((1, to), (2, to), (1, claimed), (2, claimed)):
            head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, kind) + mac_bytes(FORGER)
            payload = head + claimed.packed + mac_bytes(ALL) + target.packed
            yield mac_bytes(ALL) + mac_bytes(FORGER) + b"\x08\x06" + payload
        return
    for flags in (0x20, 0x60, 0xE0):  # override, solicited, from a router
        option = b"\2\1" + mac_bytes(FORGER)
        rest = bytes((flags, 0, 0, 0)) + claimed.packed + option
        yield ethernet(icmp(claimed, to, 136, 0, rest), 6)
    yield ethernet(solicitation(claimed, to), 6)


def arp_request(source: Address, target: Address) -> bytes:
    """Write the question where an IPv4 address is, by somebody who is at ``FORGER``."""
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac_bytes(FORGER)
    payload = head + source.packed + bytes(6) + target.packed
    return mac_bytes(ALL) + mac_bytes(FORGER) + b"\x08\x06" + payload


def is_answer(frame: bytes, about: Address) -> bool:
    """Whether a frame tells ``FORGER``, by ARP or neighbour discovery, where an address is."""
    to, kind = frame[:6], frame[12:14]
    if to != mac_bytes(FORGER):
        return False
    if about.version == 4:
        return kind == b"\x08\x06" and frame[20:22] == b"\0\2" and frame[28:32] == about.packed
    return kind == b"\x86\xdd" and frame[54] == 136 and frame[62:78] == about.packed


def solicitation(source: Address, target: Address) -> bytes:
    """Write the question where an IPv6 address is, by somebody who is at ``FORGER``."""
    option = b"\1\1" + mac_bytes(FORGER)
    return icmp(source, target, 135, 0, bytes(4) + target.packed + option)


@contextmanager
def sending(place: Namespace, device: str) -> Iterator[socket.socket]:
    """Have a socket that sends frames by a device of a namespace."""
    kind = socket.SOCK_RAW
    with place.call(lambda: socket.socket(socket.AF_PACKET, kind)) as sock:
        place.call(lambda: sock.bind((device, 0)))
        yield sock


def ask(place: Namespace, device: str, question: bytes, about: Address, seconds: float) -> bool:
    """Ask where an address is by a device, again and again; whether there was an answer."""
    kind, end = socket.SOCK_RAW, time.monotonic() + seconds
    with place.call(lambda: socket.socket(socket.AF_PACKET, kind)) as sock:
        place.call(lambda: sock.bind((device, _EVERYTHING)))
        sock.settimeout(_AGAIN_SECONDS)
        while time.monotonic() < end:
            sock.send(question)
            again = time.monotonic() + _AGAIN_SECONDS
            with suppress(TimeoutError):
                while time.monotonic() < again:
                    if is_answer(sock.recv(2048), about):
                        return True
    return False


@contextmanager
def flooding(place: Namespace, device: str, frames: Sequence[bytes]) -> Iterator[None]:
    """Send frames again and again while the block runs; they were sent once when it begins."""
    ended = threading.Event()

    def flood(sock: socket.socket) -> None:
        while not ended.is_set():
            for frame in frames:
                sock.send(frame)
            time.sleep(_EVERY_SECONDS)

    with sending(place, device) as sock:
        for frame in frames:
            sock.send(frame)
        thread = threading.Thread(target=flood, args=(sock,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
