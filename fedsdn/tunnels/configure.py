"""Tells the namespace's WireGuard interfaces their keys and peers, and asks them, through wg(8)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fedsdn import namespace
from fedsdn.config.model import Federation
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import is_tunnel_name
from fedsdn.tunnels.configuration import Configuration, Identities, Seen, parse
from fedsdn.tunnels.plan import Tunnel, TunnelKind, tunnels
from fedsdn.tunnels.wireguard import PeerState, parse_peers

_ANSWER_SECONDS = 5.0
"""``wireguard-go`` may be there and answer nothing (wg(8) waits for it for ever)."""
_SESSION = 240
"""Seconds after which a session has certainly ended (the WireGuard paper's section 6: 180)."""


@dataclass(slots=True)
class Memory:
    """What is kept from one look at the interfaces to the next; for one thread.

    ``told`` is what they were told last, without what was followed of them, and ``seen`` how they
    were. ``rotating`` says whether a peer may begin a session with its new identity any moment.
    """

    told: dict[str, Configuration] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    rotating: bool = False
    _planned: tuple[Federation, Identities, Mapping[str, Tunnel]] | None = None

    def planned(
        self, federation: Federation, site: str, identities: Identities
    ) -> Mapping[str, Tunnel]:
        """Return the tunnels with WireGuard by name; worked out when something is another."""
        known = self._planned
        if known is None or known[0] is not federation or known[1] is not identities:
            found = tunnels(federation, federation.site(site), identities.peers)
            wireguard = {one.name: one for one in found if one.kind is TunnelKind.WIREGUARD}
            known = self._planned = federation, identities, wireguard
        return known[2]

    def look_for_rotations(self, federation: Federation, now: float) -> None:
        """Find out whether there is a new identity without a session beside one that has one."""
        several = [site.identities for site in federation.sites if len(site.identities) > 1]
        old = {one.key for identities in several for one in identities[:-1]}
        new = {identities[-1].key for identities in several}
        self.rotating = any(
            any(one.key in new and one.handshake is None for one in seen.peers)
            and any(
                one.key in old and one.handshake is not None and now - one.handshake < _SESSION
                for one in seen.peers
            )
            for seen in self.seen.values()
            if several
        )


def configure(
    name: str, federation: Federation, site: str, identities: Identities, memory: Memory
) -> tuple[str, ...]:
    """Have the interfaces in the namespace called ``name`` as the federation has their tunnels.

    One that the federation does not have any more is left without peers. Returns those that had to
    change; sessions with peers that stay go on. One that refuses keeps none of the others from it.
    ``memory`` is for the caller to keep.

    Raises:
        MissingNamespaceError: there is no such namespace.
        FedsdnError: ``wg`` is not installed, or interfaces refuse.

    """
    if identities.own is None:
        return ()
    planned = memory.planned(federation, site, identities)
    own = identities.own

    def work() -> tuple[str, ...]:
        present = filter(is_tunnel_name, _wg("show", "interfaces").split())
        return sync({one: Configuration(own, planned.get(one)) for one in present}, _wg, memory)

    try:
        try:
            return namespace.inside(name, work)
        finally:
            memory.look_for_rotations(federation, time.time())
    except OSError as error:
        raise FedsdnError(f"tunnels in namespace {name} cannot be set: {error}") from error


def peers(name: str) -> list[PeerState]:
    """Return what WireGuard says of the peers in a namespace's tunnels.

    Raises:
        MissingNamespaceError: there is no such namespace.
        FedsdnError: ``wg`` is not installed, or fails.

    """
    try:
        return namespace.inside(
            name, lambda: parse_peers(_all("latest-handshakes"), _all("transfer"))
        )
    except OSError as error:
        raise FedsdnError(f"tunnels in namespace {name} cannot be asked: {error}") from error


def _all(what: str) -> list[str]:
    return _wg("show", "all", what).splitlines()


class RefusedError(FedsdnError):
    """``wg`` has failed."""


Wg = Callable[..., str]
"""Runs ``wg`` with words and, as ``text``, what it reads; returns what it prints.

Raises RefusedError if it fails, FedsdnError if it does not end or is not there."""


def sync(wanted: Mapping[str, Configuration], wg: Wg, memory: Memory) -> tuple[str, ...]:
    """Have each interface as it is wanted; return those that had to change.

    Raises:
        FedsdnError: some refuse; the others are as wanted.

    """
    trouble: list[FedsdnError] = []
    changed: dict[str, Configuration] = {}
    told, memory.seen = memory.told, {}
    for interface, first in wanted.items():
        try:
            seen = _show(interface, wg)
        except FedsdnError as error:
            trouble.append(error)
            continue
        if seen is None:
            continue
        memory.seen[interface] = seen
        configuration = first.following(seen, told.get(interface))
        if configuration.is_that(seen):
            told[interface] = first
        else:
            changed[interface] = configuration
    for interface in _moving(changed, memory.seen):
        # Or the port that one goes to is another's still: it refuses all of its configuration.
        _try(trouble, wg, "set", interface, "listen-port", "0")
    for interface, configuration in changed.items():
        # Keys go by a pipe: everybody may read a process's arguments.
        words = "syncconf", interface, "/dev/stdin"
        told.pop(interface, None)
        if _try(trouble, wg, *words, text=configuration.text()):
            told[interface] = wanted[interface]
    if trouble:
        raise FedsdnError("; ".join(map(str, trouble)))
    return tuple(changed)


def _moving(changed: Mapping[str, Configuration], seen: Mapping[str, Seen]) -> Iterable[str]:
    """Return the interfaces that hold a port which is to be another's."""
    taken = {one.tunnel.port: name for name, one in changed.items() if one.tunnel is not None}
    return [name for name, one in seen.items() if taken.get(one.port, name) != name]


def _try(trouble: list[FedsdnError], wg: Wg, *words: str, text: str = "") -> bool:
    try:
        wg(*words, text=text)
    except FedsdnError as error:
        trouble.append(error)
        return False
    return True


def _show(interface: str, wg: Wg) -> Seen | None:
    """Return what an interface has; None if it has gone, or its process has."""
    try:
        return parse(wg("show", interface, "dump"))
    except (RefusedError, ValueError):
        return None


def _wg(*words: str, text: str = "") -> str:
    try:
        done = subprocess.run(
            ["wg", *words],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=_ANSWER_SECONDS,
        )
    except FileNotFoundError as error:
        raise FedsdnError("wg is not installed: install package wireguard-tools") from error
    except subprocess.TimeoutExpired as error:
        raise FedsdnError(
            f"'wg {' '.join(words)}' has no answer within {_ANSWER_SECONDS:.0f} s: if a "
            "wireguard-go hangs, end it (it is started again)"
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise RefusedError(f"'wg {' '.join(words)}' fails: {said}")
    return done.stdout
