"""The probes that two sites' applications send each other over every path: their bytes.

A datagram is 16 bytes of HMAC-SHA256 (RFC 2104, truncated as its section 5 allows) over the rest,
and the rest is a JSON array of the probe's fields, in their order. There is no other message: every
probe carries all that a site reports (its ports that are down, its lost paths) and acknowledges
(the newest probe that it received), so that the next one makes up for a lost one.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

from msgspec import DecodeError, Meta, Struct, ValidationError
from msgspec.json import Decoder, Encoder

from fedsdn.errors import FedsdnError

MOST_LOST = 25
"""So many lost paths with the longest names fit into a probe at the smallest MTU."""

_MAC_BYTES = 16
_Counter = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class ProbeError(FedsdnError):
    """A datagram is no probe, or is not signed with the federation's key."""


class Probe(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One probe. ``site`` and ``uplink`` are the sender's, ``to`` and ``to_uplink`` the receiver's.

    ``epoch`` is when the sender started, in ns of Unix time; ``number`` counts its rounds to this
    peer, in each of which it sends one probe over every path. A receiver takes only probes newer
    than the last, so none can be replayed. ``heard`` acknowledges the newest probe received on the
    path: its number, in the receiver's ``heard_epoch`` (0: none), received ``heard_ago`` µs before
    this one was sent.

    ``every`` is after how many µs the next round is due at the latest; ``wanted`` asks for the full
    rate: connections depend on these paths. ``file`` is the digest of the sender's federation file.
    ``down`` names the sender's uplinks whose ports are down, ``lost`` the other paths that it
    detected down, each by the sender's uplink and the receiver's, ``MOST_LOST`` at most;
    ``leaving`` says that no more probes follow.
    """

    site: str
    uplink: str
    to: str
    to_uplink: str
    epoch: _Counter
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

    def encode(self, key: bytes) -> bytes:
        """Return the datagram, signed with ``key``."""
        return sign(_ENCODER.encode(self), key)


_ENCODER = Encoder()
_DECODER = Decoder(Probe)


def sign(body: bytes, key: bytes) -> bytes:
    """Make a datagram of a probe's text."""
    return hmac.digest(key, body, hashlib.sha256)[:_MAC_BYTES] + body


def decode(datagram: bytes, key: bytes) -> Probe:
    """Read a datagram that was signed with ``key``.

    Raises:
        ProbeError: it is not signed with it, or is no probe of this version.

    """
    body = datagram[_MAC_BYTES:]
    if not hmac.compare_digest(datagram, sign(body, key)):
        raise ProbeError("a probe is not signed with our key: compare 'probes.key' at both sites")
    try:
        return _DECODER.decode(body)
    except (DecodeError, ValidationError, UnicodeError, RecursionError) as error:
        raise ProbeError(
            "a probe of another version of fedsdn: run the same one at both sites"
        ) from error
