"""The benchmark of strangers in a peer's name: whether they are refused, and what others feel.

They have the peer's own address on an uplink's network, as whoever sits there may take it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import Event, Thread

from fedsdn.bench import impostor
from fedsdn.bench.connection import FastConnection, fast_connection
from fedsdn.bench.figures import percentile
from fedsdn.bench.guests import Guest, filtering, guests
from fedsdn.bench.neighbour import Connections, Times
from fedsdn.bench.rig import Rig
from fedsdn.bench.stranger import Kind
from fedsdn.config.local import IDENTITY_DIRECTORY
from fedsdn.config.model import Family
from fedsdn.errors import FedsdnError
from fedsdn.lab.build import Progress
from fedsdn.proxy.ended.record import Reason

_PROGRAM = "fedsdn.bench.stranger"
_FAMILY: Family = 4
_WARM_UP_SECONDS = 4.0
_COUNTED_SECONDS = 1.5
"""After so long all that was refused is in the counters."""
_LONGEST_SECONDS = 60.0
_LEAST = 300
"""Connections of which the slowest per cent says something."""

MOST_TIMES = 2.0
"""What others' new connections may take, in times of what they take without strangers."""
LEAST_PART = 0.9
"""What an established transfer is to keep of its rate."""
MOST_SILENCE_MS = 200.0
"""How long that transfer may stand still."""

_REASONS = (
    *(Reason.SILENT_CALLER, Reason.GARBLED, Reason.CROWDED, Reason.CALLERS_CERTIFICATE),
    *(Reason.FOREIGN_CLIENT, Reason.FOREIGN_DESTINATION),
)
"""What strangers are refused for."""
AnyKind = Kind | impostor.Kind

_SILENT = frozenset({Reason.SILENT_CALLER, Reason.CROWDED})
_GARBLED = frozenset({Reason.GARBLED, Reason.CROWDED})
_CERTIFICATE = frozenset({Reason.CALLERS_CERTIFICATE, Reason.CROWDED})
REFUSED_FOR: Mapping[AnyKind, Set[Reason]] = {
    Kind.HALF_OPEN: frozenset(),
    Kind.SILENT: _SILENT,
    Kind.SILENT_MULTIPATH: _SILENT,
    Kind.SLOW: _SILENT,
    Kind.GARBAGE: _GARBLED,
    Kind.HTTP: _GARBLED,
    Kind.SOCKS: _GARBLED,
    Kind.HELLO: _SILENT,
    Kind.COSTLY_HELLO: _GARBLED,
    Kind.TRUNCATED: _SILENT,
    Kind.OVERSIZED: _GARBLED,
    impostor.Kind.NO_CERTIFICATE: _CERTIFICATE,
    impostor.Kind.FOREIGN: _CERTIFICATE,
    impostor.Kind.EXPIRED: _CERTIFICATE,
    impostor.Kind.EARLY: _CERTIFICATE,
    impostor.Kind.CHAIN: _GARBLED,
    impostor.Kind.CLIENT: frozenset({Reason.FOREIGN_CLIENT, Reason.CROWDED}),
    impostor.Kind.DESTINATION: frozenset({Reason.FOREIGN_DESTINATION, Reason.CROWDED}),
}
"""What strangers of a kind may be counted as, and nothing else. A SYN alone is none's caller."""

MANY = frozenset({Kind.HALF_OPEN, Kind.SILENT, Kind.SILENT_MULTIPATH})
"""Those of which there are most."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How many strangers in how many seconds, and how long it is measured without."""

    many: int
    some: int
    impostors: int
    seconds: float
    rest: float
    kinds: tuple[AnyKind, ...]


KINDS: tuple[AnyKind, ...] = (*Kind, *impostor.Kind)
FULL = Effort(10_000, 2000, 500, 5.0, 15.0, KINDS)
QUICK = Effort(
    *(10_000, 500, 200, 5.0, 5.0),
    (Kind.HALF_OPEN, Kind.SILENT, Kind.HELLO, impostor.Kind.FOREIGN),
)


@dataclass(frozen=True, slots=True)
class Strangers:
    """What became of those of one kind, as they saw it."""

    opened: int = 0
    refused: int = 0
    served: int = 0
    left: int = 0
    outside: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Watched:
    """What others felt: Mbit/s and the longest silence of a transfer in ms, and connections.

    ``known_ms`` and ``first_ms`` are all of those that ``times`` sums up.
    """

    rate: float
    silence_ms: float
    times: Times
    known_ms: Sequence[float]
    first_ms: Sequence[float]


@dataclass(frozen=True, slots=True)
class Round:
    """One kind: others without it, beside it and behind it; ``counted`` is by the proxy."""

    kind: AnyKind
    strangers: Strangers
    counted: Mapping[str, int]
    before: Watched
    during: Watched
    after: Watched
    broken: str | None

    @property
    def part(self) -> float:
        """What the transfer kept, of the mean before and after."""
        alone = (self.before.rate + self.after.rate) / 2
        return self.during.rate / alone if alone else 0.0

    @property
    def times(self) -> float:
        """How many times longer others' connections took, at the median of the worse kind."""
        now, alone = self.during.times, self.before.times
        return max(
            now.known.median / alone.known.median,
            now.first.median / alone.first.median,
        )


@dataclass(slots=True)
class AttackResults:
    """All rounds so far."""

    rounds: list[Round] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """Say what failed, and what is beyond its bound."""
        found = [f"{one.kind}: {what}" for one in self.rounds for what in _failed(one)]
        if self.worst is not None and self.worst > MOST_TIMES:
            found.append(f"others' slowest connections took {self.worst:.1f} times as long")
        return found

    @property
    def worst(self) -> float | None:
        """How many times longer the slowest per cent took, of all rounds together.

        None of too few: one that the kernel repeats after a second would be all of these.
        """
        alone = [one for each in self.rounds for one in (each.before, each.after)]
        beside = [each.during for each in self.rounds]
        if min(sum(len(one.first_ms) for one in each) for each in (alone, beside)) < _LEAST:
            return None
        return max(
            _slowest(one.known_ms for one in beside) / _slowest(one.known_ms for one in alone),
            _slowest(one.first_ms for one in beside) / _slowest(one.first_ms for one in alone),
        )


def _slowest(rounds: Iterable[Sequence[float]]) -> float:
    return percentile([one for times in rounds for one in times], 99)


def _failed(one: Round) -> Iterator[str]:
    if one.broken:
        yield f"the transfer: {one.broken}"
    yield from _not_refused(one)
    for when, watched in (("before", one.before), ("during", one.during), ("after", one.after)):
        if watched.times.failed:
            yield f"{watched.times.failed} connections of others failed {when} it"
        if watched.silence_ms > MOST_SILENCE_MS:
            yield f"the transfer stood still for {watched.silence_ms:.0f} ms {when} it"
    if one.times > MOST_TIMES:
        yield f"others' connections took {one.times:.1f} times as long, more than {MOST_TIMES:g}"
    if one.part < LEAST_PART:
        yield f"the transfer kept {one.part:.2f} of its rate, less than {LEAST_PART:g}"


def _not_refused(one: Round) -> Iterator[str]:
    """Say which strangers were not refused as they should be."""
    if one.strangers.served or one.strangers.left:
        yield f"{one.strangers.served} were served, and {one.strangers.left} not refused"
    if one.kind is not Kind.HALF_OPEN and not one.strangers.opened:
        yield "none came so far that it could be refused"
    expected = {str(reason) for reason in REFUSED_FOR[one.kind]}
    counted = sum(count for reason, count in one.counted.items() if reason in expected)
    if counted < one.strangers.opened:
        words = " or ".join(sorted(expected))
        yield f"{counted} of {one.strangers.opened} were counted as {words}"
    for reason, count in one.counted.items():
        if reason not in expected:
            yield f"{count} were counted as {reason}"


def run(rig: Rig, effort: Effort, results: AttackResults, report: Progress) -> None:
    """Measure; ``results`` has what was found so far at any time.

    Raises:
        FedsdnError: something cannot be measured.

    """
    near, far = rig.sites
    with guests(rig.lab, {near.name: 1, far.name: 1}) as made:
        scene = _Scene(rig, effort, made[near.name][0], made[far.name][0])
        for kind in effort.kinds:
            one = scene.attack(kind)
            results.rounds.append(one)
            report(
                f"{kind}: {one.strangers.opened} opened, {one.strangers.refused} refused; others' "
                f"connections took {one.times:.1f} times"
            )
    if results.worst is None:
        report("too few connections of others to say anything of their slowest per cent")


@dataclass(frozen=True, slots=True)
class _Scene:
    rig: Rig
    effort: Effort
    neighbour: Guest
    server: Guest

    def attack(self, kind: AnyKind) -> Round:
        near, far = self.rig.sites
        address = far.vms[0].address(_FAMILY)
        if address is None:
            raise FedsdnError(f"VM {far.vms[0].name} has no IPv{_FAMILY} address")
        found: list[Strangers] = []
        shell = near.vms[0].shell
        with fast_connection(shell, far.vms[0].shell, address, "upload") as transfer:
            time.sleep(_WARM_UP_SECONDS)
            before = self._watch(transfer, self._rest)
            counted = self._counted()
            during = self._watch(transfer, lambda: found.append(self._send(kind)))
            time.sleep(_COUNTED_SECONDS)
            now = self._counted()
            after = self._watch(transfer, self._rest)
            ending = transfer.finish()
        new = {name: count - counted[name] for name, count in now.items() if count > counted[name]}
        return Round(kind, found[0], new, before, during, after, ending.error)

    def _counted(self) -> dict[str, int]:
        far = self.rig.sites[1]
        stats = far.shell.json(*far.fedsdn, "proxy", "stats", "--json")
        return {str(reason): stats[f"ended_{reason.key}"] for reason in _REASONS}

    def _rest(self) -> None:
        time.sleep(self.effort.rest)

    def _send(self, kind: AnyKind) -> Strangers:
        near, far = self.rig.sites
        source, target = (str(self.rig.address(view, 0)) for view in (near, far))
        count = self.effort.many if kind in MANY else self.effort.some
        more: list[str] = []
        if isinstance(kind, impostor.Kind):
            count, more = self.effort.impostors, self._peers_own()
        port = far.federation.proxy_port
        with self._unanswered(port) if kind is Kind.HALF_OPEN else nullcontext():
            said = near.proxy.output(
                *near.proxy.module(_PROGRAM),
                *(kind, source, target, str(port), str(count), str(self.effort.seconds)),
                *more,
                timeout=_LONGEST_SECONDS,
            )
        return Strangers(**json.loads(said))

    def _peers_own(self) -> list[str]:
        """Return the directory of the peer's own keys, its name, and a VM of either site."""
        near, far = self.rig.sites
        vms = (str(view.vms[0].address(_FAMILY)) for view in (near, far))
        return [str(near.config_file.parent / IDENTITY_DIRECTORY), near.name, *vms]

    def _unanswered(self, port: int) -> AbstractContextManager[None]:
        """Have the strangers' kernel, which knows nothing of their SYNs, not hear the answers."""
        answer = f"tcp sport {port} tcp flags & (syn | ack) == (syn | ack)"
        rules = f"{answer} socket wildcard 0 accept", f"{answer} drop"
        return filtering(self.rig.sites[0].proxy, *rules, hook="prerouting")

    def _watch(self, transfer: FastConnection, work: Callable[[], None]) -> Watched:
        """Open connections while ``work`` goes on."""
        ended = Event()
        connections = Connections(self.neighbour, self.server, _FAMILY, ended)
        began = time.monotonic()
        working = Thread(target=work, daemon=True)
        working.start()
        working.join()
        end = time.monotonic()
        ended.set()
        connections.join()
        rate = transfer.received(began, end) * 8e-6 / (end - began)
        return Watched(
            *(rate, transfer.silence(began, end) * 1000, connections.times()),
            *(connections.known, connections.first),
        )


Rows = Sequence[Sequence[str]]


def table(results: AttackResults) -> tuple[str, Sequence[str], Rows]:
    """Return title, headings and rows."""
    marks = {True: "✓", False: "✗"}
    return (
        "Strangers in a peer's name beside others (ms to the first byte)",
        (
            *("strangers", "opened", "refused", "served", "left", "counted as"),
            *("known: before", "during", "p99: before", "during"),
            *("new: before", "during", "p99: before", "during", "times", ""),
            *("transfer keeps", "", "stands still, ms"),
        ),
        [
            (
                *(str(one.kind), *_strangers(one.strangers)),
                ", ".join(f"{count} {reason}" for reason, count in one.counted.items()) or "-",
                *_times(one.before.times, one.during.times),
                *(f"{one.times:.1f}", marks[one.times <= MOST_TIMES]),
                *(f"{one.part:.2f}", marks[one.part >= LEAST_PART]),
                f"{one.during.silence_ms:.0f}",
            )
            for one in results.rounds
        ],
    )


def _strangers(found: Strangers) -> list[str]:
    return [str(one) for one in (found.opened, found.refused, found.served, found.left)]


def _times(before: Times, during: Times) -> list[str]:
    pairs = (
        (before.known.median, during.known.median),
        (before.known.p99, during.known.p99),
        (before.first.median, during.first.median),
        (before.first.p99, during.first.p99),
    )
    return [f"{one:.0f}" for pair in pairs for one in pair]
