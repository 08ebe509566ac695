"""The probes that two sites' applications send each other over every path: their bytes.

A datagram is the name of a key of 8 bytes, 16 bytes of HMAC-SHA256 (RFC 2104, truncated as its
section 5 allows) over the rest with that key, and the rest, a JSON array of the probe's fields, in
their order. Nothing of it is read before the signature is found right. There is no other message:
every probe carries all that a site reports (its ports that are down, its lost paths) and
acknowledges (the newest probe that it received), so that the next one makes up for a lost one.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

from msgspec import DecodeError, Meta, Struct, ValidationError
from msgspec.json import Decoder, Encoder

from fedsdn.errors import FedsdnError
from fedsdn.uplinks.pair_keys import NAME_BYTES, PairKey

MOST_LOST = 24
"""So many lost paths with the longest names fit into a probe at the smallest MTU."""

_MAC_BYTES = 16
_Counter = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Refusal(StrEnum):
    """Why a datagram is not taken for a probe."""

    UNKNOWN = "unknown site"
    """It names no key of ours with a site of the federation file."""
    SIGNATURE = "wrong signature"
    VERSION = "other version"
    PATH = "other path"
    """It came from elsewhere than it says, or the federation file has no such path."""
    OLD = "replay"
    """It came before, or others that were sent later did."""
    UNPROVEN = "handshake"
    """It was sent before its epoch was proven; or is a greeting, and nothing was left to prove."""


class ProbeError(FedsdnError):
    """A datagram is no probe; ``reason`` says why, ``site`` in whose name it is signed."""

    def __init__(self, reason: Refusal, text: str, site: str = "") -> None:
        """Give the reason, and what was found and what to do in one line."""
        super().__init__(text)
        self.reason = reason
        self.site = site


class Probe(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One probe. ``site`` and ``uplink`` are the sender's, ``to`` and ``to_uplink`` the receiver's.

    ``epoch`` is a number that the sender drew by lot at its start; ``number`` counts its rounds to
    this peer, in each of which it sends one probe over every path. A receiver takes only probes
    newer than the last, so none can be replayed. ``heard`` acknowledges the newest probe received
    on the path: its number, in the receiver's ``heard_epoch`` (0: none), received ``heard_ago`` µs
    before this one was sent.

    ``every`` is after how many µs the next round is due at the latest; ``wanted`` asks for the full
    rate: connections depend on these paths. ``file`` is the digest of the sender's federation file.
    ``down`` names the sender's uplinks whose ports are down, ``lost`` the other paths that it
    detected down, each by the sender's uplink and the receiver's, ``MOST_LOST`` at most;
    ``leaving`` says that no more probes follow.

    ``asks`` and ``answers`` are of the handshake (``handshake``): the moment of a question, in µs
    of the clock of who asks; 0 in a round's probes.
    """

    site: str
    uplink: str
    to: str
    to_uplink: str
    epoch: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    number: _Counter
    heard_epoch: _Counter
    heard: _Counter
    heard_ago: _Counter
    every: Annotated[int, Meta(ge=1, le=2**40)]
    wanted: bool
    file: str
    down: tuple[str, ...]
    lost: tuple[tuple[str, str], ...]
    leaving: bool
    asks: _Counter
    answers: _Counter

    @property
    def is_greeting(self) -> bool:
        """Whether it is of the handshake, and so of no round: ``number`` is the last round's."""
        return bool(self.asks or self.answers)

    def encode(self, key: PairKey) -> bytes:
        """Return the datagram, signed with ``key``."""
        return sign(_ENCODER.encode(self), key)


_ENCODER = Encoder()
_DECODER = Decoder(Probe)


def sign(body: bytes, key: PairKey) -> bytes:
    """Make a datagram of a probe's text."""
    return key.name + _mac(body, key) + body


def _mac(body: bytes, key: PairKey) -> bytes:
    return hmac.digest(key.secret, body, "sha256")[:_MAC_BYTES]


def decode(datagram: bytes, find: Callable[[bytes], PairKey | None]) -> tuple[Probe, PairKey]:
    """Read a datagram, and say with which key it is signed.

    ``find`` returns the key of a name, None if it is none of ours.

    Raises:
        ProbeError: it is not signed with a key of its sender, or no probe of this version.

    """
    key = find(datagram[:NAME_BYTES])
    if key is None:
        raise ProbeError(
            Refusal.UNKNOWN,
            "a probe is signed with no key that we have with a site: compare 'identity' of both "
            "sites in both files, and run 'fedsdn identity check' at both",
        )
    mac, body = datagram[NAME_BYTES : NAME_BYTES + _MAC_BYTES], datagram[NAME_BYTES + _MAC_BYTES :]
    if not hmac.compare_digest(mac, _mac(body, key)):
        raise ProbeError(
            Refusal.SIGNATURE, f"a probe in the name of {key.sender} is forged", key.sender
        )
    try:
        probe = _DECODER.decode(body)
    except (DecodeError, ValidationError, UnicodeError, RecursionError) as error:
        raise ProbeError(
            Refusal.VERSION,
            f"a probe of {key.sender} is of another version of fedsdn: run the same one at both",
            key.sender,
        ) from error
    if (probe.site, probe.to) != (key.sender, key.receiver):
        raise ProbeError(
            Refusal.SIGNATURE,
            f"a probe of {key.sender} is in the name of {probe.site!r}, to {probe.to!r}",
            key.sender,
        )
    return probe, key
