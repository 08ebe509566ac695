"""The probes that two sites' applications send each other over every path: their bytes.

A datagram is 16 bytes of HMAC-SHA256 (RFC 2104, truncated as its section 5 allows) over the rest,
and the rest is a JSON object. There is no other message: every probe carries all that a site
reports (its ports that are down, its lost paths) and acknowledges (the newest probe that it
received), so that the next one makes up for a lost one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from fedsdn.errors import FedsdnError

MOST_LOST = 23
"""So many lost paths with the longest names fit into a probe at the smallest MTU."""

_MAC_BYTES = 16
_LARGEST = 2**63


class ProbeError(FedsdnError):
    """A datagram is no probe, or is not signed with the federation's key."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe. ``site`` and ``uplink`` are the sender's, ``to`` and ``to_uplink`` the receiver's.

    ``epoch`` is when the sender started, in ns of Unix time; ``number`` counts its rounds, in each
    of which it sends one probe over every path. A receiver takes only probes newer than the last,
    so none can be replayed. ``heard`` acknowledges the newest probe received on the path: its
    number, in the receiver's ``heard_epoch`` (0: none), received ``heard_ago`` µs before this one
    was sent. ``down`` names the sender's uplinks whose ports are down, ``lost`` the other paths
    that it detected down, each by the sender's uplink and the receiver's, ``MOST_LOST`` at most;
    ``leaving`` says that no more probes follow. ``file`` is the digest of the sender's
    federation file.
    """

    site: str
    uplink: str
    to: str
    to_uplink: str
    epoch: int
    number: int
    heard_epoch: int = 0
    heard: int = 0
    heard_ago: int = 0
    down: tuple[str, ...] = ()
    lost: tuple[tuple[str, str], ...] = ()
    leaving: bool = False
    file: str = ""

    def encode(self, key: bytes) -> bytes:
        """Return the datagram, signed with ``key``."""
        body = json.dumps(asdict(self), separators=(",", ":")).encode()
        return sign(body, key)


def sign(body: bytes, key: bytes) -> bytes:
    """Make a datagram of a probe's text."""
    return hmac.digest(key, body, hashlib.sha256)[:_MAC_BYTES] + body


_NAMES = ("site", "uplink", "to", "to_uplink", "file")
_TYPES = {"down": list, "lost": list, "leaving": bool, **dict.fromkeys(_NAMES, str)}
_FIELDS = {field.name: _TYPES.get(field.name, int) for field in fields(Probe)}


def decode(datagram: bytes, key: bytes) -> Probe:
    """Read a datagram that was signed with ``key``.

    Raises:
        ProbeError: it is not signed with it, or is no probe of this version.

    """
    body = datagram[_MAC_BYTES:]
    if not hmac.compare_digest(datagram, sign(body, key)):
        raise ProbeError("a probe is not signed with our key: compare 'probes.key' at both sites")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not _fits(found):
        raise ProbeError("a probe of another version of fedsdn: run the same one at both sites")
    lost = tuple((uplink, to_uplink) for uplink, to_uplink in found["lost"])
    return Probe(**{**found, "down": tuple(found["down"]), "lost": lost})


def _fits(found: dict[str, Any]) -> bool:
    """Whether an object has a probe's fields, and numbers no larger than a counter gets."""
    return (
        {name: type(value) for name, value in found.items()} == _FIELDS
        and all(0 <= value <= _LARGEST for value in found.values() if isinstance(value, int))
        and all(isinstance(name, str) for name in found["down"])
        and all(
            isinstance(path, list) and [*map(type, path)] == [str, str] for path in found["lost"]
        )
    )
