"""The signatures of a site's probes, and the count of datagrams that are not taken for any."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedsdn.config.model import Address, Site
from fedsdn.damped_log import DampedLog
from fedsdn.identity.store import OwnKeys
from fedsdn.tunnels.configuration import Identities
from fedsdn.uplinks.pair_keys import PairKey, ProbeKeys
from fedsdn.uplinks.path import Way
from fedsdn.uplinks.probe import Probe, ProbeError, Refusal, decode
from fedsdn.uplinks.status import RefusedProbes

_AT_ONCE = 20
"""So many keys are computed in a turn of the event loop: 2 ms."""

_LOGGED = {
    Refusal.UNKNOWN: logging.WARNING,
    Refusal.SIGNATURE: logging.WARNING,
    Refusal.VERSION: logging.WARNING,
    Refusal.PATH: logging.WARNING,
    Refusal.OLD: logging.INFO,
    Refusal.UNPROVEN: logging.DEBUG,
}
"""What a network does by itself, or an application at its start, warns of nothing."""


class SignedProbes:
    """Signs the probes of a site, and reads its peers'."""

    def __init__(self, site: str, log: DampedLog) -> None:
        """Begin without keys."""
        self._keys = ProbeKeys(site)
        self._log = log
        self._sites: dict[Address, str] = {}
        self._own_tunnels: bytes | None = None
        self._tunnels: dict[bytes, bytes] = {}
        """Keys of tunnels by those of probes."""
        self._refused: Counter[tuple[str, Refusal]] = Counter()

    def set(self, own: Sequence[OwnKeys], peers: Sequence[Site]) -> None:
        """Go over to these private keys, the current ones first, and the peers' public ones."""
        self._own_tunnels = own[0].tunnels if own else None
        identities = [one for peer in peers for one in peer.identities]
        self._tunnels = {one.key: one.tunnel_key for one in identities}
        self._sites = {up.peer_address: peer.name for peer in peers for up in peer.uplinks}
        self._keys.set(
            [X25519PrivateKey.from_private_bytes(one.probes) for one in own],
            {peer.name: [one.key for one in peer.identities] for peer in peers},
        )

    def derive(self) -> bool:
        """Compute some of the keys that are missing; True if more are."""
        return self._keys.derive(_AT_ONCE)

    def encode(self, probe: Probe) -> bytes | None:
        """Return a probe as a datagram; None if there is no key for its receiver."""
        key = self._keys.signing(probe.to)
        return None if key is None else probe.encode(key)

    def decode(self, datagram: bytes, way: Way) -> tuple[Probe, PairKey] | None:
        """Read a datagram that came by a ``way``, and say with which key it is signed.

        None, and it is counted, if it is no probe.
        """
        try:
            return decode(datagram, self._keys.receiving)
        except ProbeError as error:
            if error.reason is Refusal.UNKNOWN and not self._keys.is_complete:
                return None  # perhaps a peer's: there will be more of it
            uplink, address = way
            site = error.site or self._sites.get(address, "")
            whose = f"site {site}" if site else "no site's by our federation file"
            self._count(error.reason, site, f"{error} (from {address}, {whose}, over {uplink})")
            return None

    def reply(self, probe: Probe, received: PairKey) -> bytes:
        """Return a probe as a datagram, in reply to one that was signed with a peer's key."""
        return probe.encode(self._keys.replying(received))

    def follow(self, received: PairKey) -> bool:
        """Note which identity a peer uses, by one of its probes that was taken; True if another."""
        return self._keys.follow(received)

    def used(self) -> Identities:
        """Return the tunnels' keys of this site and its peers: of the identities used now."""
        used = {peer: self._tunnels[key] for peer, key in self._keys.used().items()}
        return Identities(self._own_tunnels, used)

    def refuse(self, why: Refusal, probe: Probe) -> None:
        """Count a probe that is signed well and is not taken."""
        path = f"{probe.uplink!r} to {probe.to}/{probe.to_uplink!r}"
        self._count(
            why, probe.site, f"a probe of {probe.site}, {path}, is not taken: {_WORDS[why]}"
        )

    def _count(self, why: Refusal, site: str, text: str) -> None:
        self._refused[site, why] += 1
        if (level := _LOGGED[why]) > logging.DEBUG:
            self._log.say(level, ("refused", site, why), text)

    def refused(self) -> Iterable[RefusedProbes]:
        """Return how many datagrams were not taken, by the site that they came from, and why."""
        return (RefusedProbes(site, why, n) for (site, why), n in sorted(self._refused.items()))


_WORDS = {
    Refusal.UNKNOWN: "our federation file has no such peer",
    Refusal.PATH: "it came from elsewhere, or our federation file has no such path",
    Refusal.OLD: "it came before, or after later ones",
    Refusal.UNPROVEN: "nothing is proven by it",
}
