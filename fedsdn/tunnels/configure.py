"""Tells the namespace's WireGuard interfaces their keys and peers, and asks them, through wg(8)."""

from __future__ import annotations

import resource
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field

from fedsdn import namespace
from fedsdn.config.model import Federation
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import is_tunnel_name
from fedsdn.tunnels.configuration import (
    Configuration,
    Identities,
    Seen,
    parse,
    parse_all,
    public_half,
)
from fedsdn.tunnels.plan import Tunnel, TunnelKind, tunnels
from fedsdn.tunnels.sessions import SESSION_SECONDS, End, Heard, Sessions

_ANSWER_SECONDS = 5.0
"""``wireguard-go`` may be there and answer nothing (wg(8) waits for it for ever)."""

_HUNG_SECONDS = 10.0
"""How often one is asked that did not answer, and how long it has to (others wait meanwhile)."""
_HUNG_ANSWER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Hung:
    """An interface that does not answer: what was said of it, and when it is asked again."""

    error: FedsdnError
    again: float


@dataclass(slots=True)
class Memory:
    """What is kept from one look at the interfaces to the next; for one thread.

    ``told`` is what they were told last, without what was followed of them, and ``seen`` how they
    were. ``rotating`` says whether a peer may begin a session with its new identity any moment.
    ``heard`` is what has come by them, None if that is not known. ``right`` is how an interface was
    when it had what it was to have: that is not compared again while it is so. ``hung`` are those
    that do not answer, and ``spent`` the seconds of a processor that the last look has cost.
    """

    told: dict[str, Configuration] = field(default_factory=dict)
    right: dict[str, tuple[Configuration, Set[str], object]] = field(default_factory=dict)
    seen: Mapping[str, Seen] = field(default_factory=dict)
    rotating: bool = False
    sessions: Sessions = field(default_factory=Sessions)
    heard: Mapping[End, Heard] | None = None
    hung: dict[str, Hung] = field(default_factory=dict)
    spent: float = 0.0
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
        old = {one.tunnel_key for identities in several for one in identities[:-1]}
        new = {identities[-1].tunnel_key for identities in several}
        self.rotating = any(
            any(one.key in new and one.handshake is None for one in seen.peers)
            and any(
                one.key in old
                and one.handshake is not None
                and now - one.handshake < SESSION_SECONDS
                for one in seen.peers
            )
            for seen in self.seen.values()
            if several
        )


def configure(
    name: str,
    federation: Federation,
    site: str,
    identities: Identities,
    live: Set[End],
    memory: Memory,
) -> tuple[str, ...]:
    """Have the interfaces in the namespace called ``name`` as the federation has their tunnels.

    One that the federation does not have any more is left without peers. Returns those that had to
    change; sessions with peers that stay go on, and begin where paths are ``live``. One that
    refuses keeps none of the others from it. ``memory`` is for the caller to keep.

    Raises:
        MissingNamespaceError: there is no such namespace.
        FedsdnError: ``wg`` is not installed, or interfaces refuse.

    """
    memory.heard = None
    if identities.own is None:
        return ()
    planned = memory.planned(federation, site, identities)
    own = identities.own

    def work() -> tuple[str, ...]:
        before = _spent()
        try:
            return sync(own, planned, live, _wg, memory)
        finally:
            memory.spent = _spent() - before

    try:
        try:
            return namespace.inside(name, work)
        finally:
            memory.look_for_rotations(federation, time.time())
    except OSError as error:
        raise FedsdnError(f"tunnels in namespace {name} cannot be set: {error}") from error


def _spent() -> float:
    """Return what this thread and the programs that have ended have used of processors, in seconds.

    Waiting for an interface that hangs is none of it.
    """
    programs = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.thread_time() + programs.ru_utime + programs.ru_stime


class RefusedError(FedsdnError):
    """``wg`` has failed."""


Wg = Callable[..., str]
"""Runs ``wg`` with words and, as ``text``, what it reads; returns what it prints.

It has ``seconds`` for it. Raises RefusedError if it fails, FedsdnError if it does not end or is not
there."""


def sync(
    own: bytes, planned: Mapping[str, Tunnel], live: Set[End], wg: Wg, memory: Memory
) -> tuple[str, ...]:
    """Have each interface as it is planned, with the private key; return those that had to change.

    Raises:
        FedsdnError: some refuse; the others are as wanted.

    """
    trouble: list[FedsdnError] = []
    now, told = time.monotonic(), memory.told
    memory.seen = _seen(wg, planned, memory, trouble)
    memory.sessions.note(planned, memory.seen, now, time.time())
    memory.heard = memory.sessions.heard
    kept, anew = map(_by_interface, memory.sessions.begin(live, now))
    public = public_half(own)
    wanted = {name: Configuration(own, planned.get(name)) for name in memory.seen}
    changed: dict[str, Configuration] = {}
    right, memory.right = memory.right, {}
    for interface, first in wanted.items():
        seen = memory.seen[interface]
        # With another private key sessions end, and nothing says so. The first keepalive begins
        # others: it comes when that is in force.
        sites = kept.get(interface, set()) if seen.key in (None, public) else set[str]()
        as_it_is = first, sites, seen.settings
        gone = _to_remove(wg, interface, _keys(first, anew.get(interface, set()), seen), seen)
        if not gone and right.get(interface) == as_it_is and not first.is_rotating:
            memory.right[interface] = as_it_is
            continue
        configuration = first.following(seen, told.get(interface), sites)
        if gone:
            words = (word for key in gone for word in ("peer", key, "remove"))
            _try(trouble, wg, "set", interface, *words)
        if not gone and configuration.is_that(seen):
            told[interface] = first
            memory.right[interface] = as_it_is
        else:
            changed[interface] = configuration
    for interface in _moving(changed, memory.seen):
        # Or the port that one goes to is another's still: it refuses all of its configuration.
        _try(trouble, wg, "set", interface, "listen-port", "0")
    for interface, configuration in changed.items():
        # Keys go by a pipe: everybody may read a process's arguments.
        told.pop(interface, None)
        if _try(trouble, wg, "syncconf", interface, "/dev/stdin", text=configuration.text()):
            told[interface] = wanted[interface]
    if trouble:
        raise FedsdnError("; ".join(map(str, trouble)))
    return tuple(changed)


def _seen(
    wg: Wg, planned: Mapping[str, Tunnel], memory: Memory, trouble: list[FedsdnError]
) -> dict[str, Seen]:
    """Return what tunnels' interfaces have, by name, of all that answer."""
    # One that hangs keeps the others from being shown, and from being listed in the end.
    if memory.hung:
        found = _one_by_one(wg, {*planned, *memory.seen, *memory.hung}, memory.hung)
    else:
        try:
            found = parse_all(wg("show", "all", "dump"))
        except FedsdnError:
            found = _one_by_one(wg, wg("show", "interfaces").split(), memory.hung)
    trouble.extend(one.error for one in memory.hung.values())
    return {name: one for name, one in found.items() if is_tunnel_name(name)}


def _one_by_one(wg: Wg, names: Iterable[str], hung: dict[str, Hung]) -> dict[str, Seen]:
    """Return what those have that answer; note who hangs."""
    found: dict[str, Seen] = {}
    for name in names:
        before = hung.get(name)
        if before is not None and time.monotonic() < before.again:
            continue
        seconds = _ANSWER_SECONDS if before is None else _HUNG_ANSWER_SECONDS
        try:
            found[name] = parse(wg("show", name, "dump", seconds=seconds))
        except (RefusedError, ValueError):
            hung.pop(name, None)  # it has gone, or its process has
        except FedsdnError as error:
            said = error if before is None else before.error
            hung[name] = Hung(said, time.monotonic() + _HUNG_SECONDS)
        else:
            hung.pop(name, None)
    return found


def _by_interface(ends: Iterable[End]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, site in ends:
        found.setdefault(name, set()).add(site)
    return found


def _keys(configuration: Configuration, sites: Set[str], seen: Seen) -> list[str]:
    """Return the keys of these sites that an interface has, as wg(8) writes them."""
    if not sites:
        return []
    there = {one.key for one in seen.peers}
    peers = (peer for peer in configuration.peers if peer.site in sites)
    keys = (key for peer in peers for key in (peer.key, *peer.spare_keys) if key in there)
    return [b64encode(key).decode() for key in keys]


def _to_remove(wg: Wg, interface: str, keys: list[str], seen: Seen) -> list[str]:
    """Return those of the keys with which no session has begun since they were seen.

    With an interface that does not say so: none.
    """
    if not keys:
        return []
    try:
        lines = wg("show", interface, "latest-handshakes").splitlines()
    except FedsdnError:
        return []
    last = {b64encode(one.key).decode(): str(one.handshake or 0) for one in seen.peers}
    quiet = {
        key for key, _, when in (line.partition("\t") for line in lines) if last.get(key) == when
    }
    return [key for key in keys if key in quiet]


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


def _wg(*words: str, text: str = "", seconds: float = _ANSWER_SECONDS) -> str:
    try:
        done = subprocess.run(
            ["wg", *words],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except FileNotFoundError as error:
        raise FedsdnError("wg is not installed: install package wireguard-tools") from error
    except subprocess.TimeoutExpired as error:
        raise FedsdnError(
            f"'wg {' '.join(words)}' has no answer within {seconds:.0f} s: if a "
            "wireguard-go hangs, end it (it is started again)"
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise RefusedError(f"'wg {' '.join(words)}' fails: {said}")
    return done.stdout
