"""Datagrams that are answered with themselves, and what became of many of them.

A datagram is a number, the address and port that its receiver saw (zeros on the way there), bytes
of no meaning, and the SHA-256 of number and bytes.
"""

from __future__ import annotations

import hashlib
import random
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from itertools import pairwise

from fedsdn.traffic.values import Endpoint

_HEAD = struct.Struct("!I16sH")
_NUMBER_BYTES = 4
_DIGEST = hashlib.sha256().digest_size
LEAST_BYTES = _HEAD.size + _DIGEST
_MAPPED = b"\0" * 10 + b"\xff\xff"
_NOWHERE = b"\0" * 16


def message(number: int, size: int) -> bytes:
    """Return a datagram of ``size`` bytes, at least ``LEAST_BYTES``."""
    body = random.Random(number).randbytes(size - LEAST_BYTES)  # noqa: S311 -- no secret
    return _HEAD.pack(number, _NOWHERE, 0) + body + _digest(number, body)


def _digest(number: int, body: bytes) -> bytes:
    return hashlib.sha256(number.to_bytes(_NUMBER_BYTES, "big") + body).digest()


@dataclass(frozen=True, slots=True)
class Message:
    """A datagram that came intact; ``seen`` is whom its receiver saw, None on the way there."""

    number: int
    seen: Endpoint | None
    body: bytes

    def same_as(self, sent: bytes) -> bool:
        """Whether it carries what was sent."""
        return sent[_HEAD.size : -_DIGEST] == self.body


def read(data: bytes) -> Message | None:
    """Take a datagram apart; None if it is not as it was sent."""
    if len(data) < LEAST_BYTES:
        return None
    number, address, port = _HEAD.unpack_from(data)
    body = data[_HEAD.size : -_DIGEST]
    if data[-_DIGEST:] != _digest(number, body):
        return None
    return Message(number, (_text(address), port) if port else None, body)


def answer(data: bytes, address: str, port: int) -> bytes | None:
    """Return what a datagram from an address is answered with; None if it is not intact."""
    came = read(data)
    if came is None:
        return None
    return _HEAD.pack(came.number, _octets(address), port) + data[_HEAD.size :]


@lru_cache
def _octets(address: str) -> bytes:
    packed = ip_address(address).packed
    return packed if len(packed) == len(_NOWHERE) else _MAPPED + packed


@lru_cache
def _text(packed: bytes) -> str:
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)


@dataclass(slots=True)
class Echo:
    """What became of one datagram. ``seen`` is the client as the server saw it.

    ``mtu`` is what the way was said to carry, in bytes with headers; ``size`` what then was sent,
    without.
    """

    size: int
    tries: int = 0
    intact: bool = False
    local: Endpoint | None = None
    seen: Endpoint | None = None
    mtu: int | None = None
    error: str | None = None


@dataclass(slots=True)
class Answered:
    """What became of a question of DNS."""

    tries: int = 0
    addresses: list[str] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StreamView:
    """What became of one flow's datagrams.

    ``lost`` have no answer, ``again`` had more than one, ``late`` came behind a later one.
    ``silence`` is the longest time without an answer, ``rtt`` the median, ``lossy`` the time in
    which the lost ones were sent, all in seconds: each stands for the time to the next one, and for
    two intervals at most, as a program that waits for the processor sends nothing that is lost.
    ``errors`` are the kernel's.
    """

    port: int
    sent: int
    lost: int
    again: int
    late: int
    silence: float
    rtt: float | None
    lossy: float
    errors: list[str]


@dataclass(slots=True)
class Stream:
    """Counts one flow's datagrams as they are sent and answered, at seconds since the start."""

    port: int
    interval: float
    """Seconds from one to the next, as they are meant to be sent."""
    _sent: dict[int, float] = field(default_factory=dict)
    _times: dict[int, float] = field(default_factory=dict)
    _latest: int = -1
    _again: int = 0
    _late: int = 0
    _last: float = 0.0
    _silence: float = 0.0
    _errors: set[str] = field(default_factory=set)

    def sent(self, number: int, now: float) -> None:
        """Count one that was sent."""
        self._sent[number] = now

    def refused(self, why: str) -> None:
        """Keep the kernel's word."""
        self._errors.add(why)

    def came(self, number: int, now: float) -> None:
        """Count an answer."""
        self._silence, self._last = max(self._silence, now - self._last), now
        if number in self._times:
            self._again += 1
            return
        self._times[number] = now - self._sent.get(number, now)
        self._late += number < self._latest
        self._latest = max(self._latest, number)

    @property
    def complete(self) -> bool:
        """Whether all were answered."""
        return len(self._times) == len(self._sent)

    def _lossy(self) -> float:
        times = sorted(self._sent.items(), key=lambda sent: sent[1])
        end = times[-1][1] + self.interval if times else 0.0
        return sum(
            min(then - now, 2 * self.interval)
            for (number, now), (_, then) in pairwise([*times, (-1, end)])
            if number not in self._times
        )

    def view(self) -> StreamView:
        """Sum up, when all has come that is still to come."""
        end = max(self._sent.values(), default=0.0)
        times = sorted(self._times.values())
        return StreamView(
            port=self.port,
            sent=len(self._sent),
            lost=len(self._sent.keys() - self._times.keys()),
            again=self._again,
            late=self._late,
            silence=max(self._silence, end - self._last),
            rtt=times[len(times) // 2] if times else None,
            lossy=self._lossy(),
            errors=sorted(self._errors),
        )
