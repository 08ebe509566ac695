"""The benchmark of restoring sources: by the proxy and by the bridge, turn about, in one lab."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fedsdn.bench.figures import Summary, summary
from fedsdn.config.model import Family, SourceRestore
from fedsdn.errors import FedsdnError
from fedsdn.lab.build import Progress
from fedsdn.lab.lab import Lab
from fedsdn.lab.operator import write_settings
from fedsdn.lab.wait import wait_until
from fedsdn.verify.view import SiteView

_PROGRAM = ("python3", "-m", "fedsdn.bench.crowd")
_PORT = 15003
_SETTLE_SECONDS = 20.0
_ROUND_SECONDS = 300.0
_WARM_UP = 20
_AT_ONCE = 200

HOWS: tuple[SourceRestore, ...] = ("transparent", "nat")
_FAMILIES: tuple[Family, ...] = (4, 6)


@dataclass(frozen=True, slots=True)
class Effort:
    """Rounds of each way, and their connections: a crowd at once, a few in turn."""

    rounds: int
    crowd: int
    in_turn: int


FULL = Effort(rounds=10, crowd=900, in_turn=100)
QUICK = Effort(rounds=2, crowd=200, in_turn=20)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round found, with so many connections ``at_once``.

    ``restored`` are connections that the bridge restored.
    """

    how: SourceRestore
    family: Family
    at_once: int
    seconds: float
    times_ms: tuple[float, ...]
    wrong: tuple[str, ...]
    errors: dict[str, int]
    restored: int

    @property
    def expected(self) -> int:
        """How many connections the bridge had to restore."""
        return len(self.times_ms) + sum(self.errors.values()) if self.how == "nat" else 0


@dataclass(frozen=True, slots=True)
class Figures:
    """One way's rounds together.

    ``rate`` is connections per second of each crowd, ``set_up_ms`` of those opened in turn.
    """

    how: SourceRestore
    asked: int
    right: int
    rate: Summary
    set_up_ms: Summary


@dataclass(slots=True)
class RestoreResults:
    """All rounds so far; ``broken`` says which were seen as somebody else, or failed."""

    rounds: list[Round] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def add(self, one: Round) -> None:
        """Note a round, and what is broken in it."""
        self.rounds.append(one)
        self.broken += [f"{one.how}: {wrong}" for wrong in one.wrong]
        self.broken += [f"{one.how}: {error} ({n} times)" for error, n in one.errors.items()]
        if one.restored != one.expected:
            self.broken.append(
                f"{one.how}: the bridge restored {one.restored} sources, not {one.expected}"
            )

    def figures(self) -> list[Figures]:
        """Sum the rounds up, each way by itself."""
        found = []
        for how in HOWS:
            rounds = [one for one in self.rounds if one.how == how]
            crowds = [one for one in rounds if one.at_once > 1]
            rate = summary(len(one.times_ms) / one.seconds for one in crowds)
            set_up = summary(time for one in rounds if one.at_once == 1 for time in one.times_ms)
            if rate and set_up:
                answered = sum(len(one.times_ms) for one in rounds)
                wrong = sum(len(one.wrong) for one in rounds)
                failed = sum(sum(one.errors.values()) for one in rounds)
                found.append(Figures(how, answered + failed, answered - wrong, rate, set_up))
        return found


def run(
    lab: Lab,
    views: Sequence[SiteView],
    effort: Effort,
    results: RestoreResults,
    report: Progress,
) -> None:
    """Measure; ``results`` has what was found so far at any time.

    Raises:
        FedsdnError: something cannot be measured.

    """
    near, far = views[0], views[1]
    with far.vms[0].shell.started(*_PROGRAM, "serve", str(_PORT)) as server:
        if not server.line():
            server.finish()
        for number in range(effort.rounds):
            for how in HOWS:
                crowd = _Crowd(near, far, _FAMILIES[number % 2])
                _switch(lab, crowd, how)
                results.add(crowd.connect(how, effort.in_turn, 1))
                one = crowd.connect(how, effort.crowd, _AT_ONCE)
                results.add(one)
                report(
                    f"{how}, IPv{one.family}: {one.expected or len(one.times_ms)} connections "
                    f"in {one.seconds:.1f} s"
                )


def _switch(lab: Lab, crowd: _Crowd, how: SourceRestore) -> None:
    """Have every site's file say how sources are restored, and wait until the far site does so."""
    federation = lab.topology.federation
    sites = tuple(replace(site, source_restore=how) for site in federation.sites)
    for host in lab.hosts:
        write_settings(host, replace(federation, sites=sites))

    def settled() -> bool:
        one = crowd.connect(how, _WARM_UP, _WARM_UP)
        return one.restored == one.expected and not one.errors

    wait_until(settled, _SETTLE_SECONDS, lambda: f"no site goes over to 'source_restore: {how}'")


class _Crowd:
    """Opens connections from the near site's first VM to the far one's."""

    def __init__(self, near: SiteView, far: SiteView, family: Family) -> None:
        self._shell = near.vms[0].shell
        self._far = far
        self._family = family
        self._address = far.vms[0].address(family)
        if self._address is None:
            raise FedsdnError(f"site {far.name}: VM {far.vms[0].name} has no IPv{family} address")

    def connect(self, how: SourceRestore, count: int, at_once: int) -> Round:
        before = self._restored()
        command = (*_PROGRAM, "connect", str(_PORT), str(self._address))
        output = self._shell.output(*command, str(count), str(at_once), timeout=_ROUND_SECONDS)
        found = json.loads(output)
        return Round(
            how,
            self._family,
            at_once,
            found["seconds"],
            tuple(found["times_ms"]),
            tuple(found["wrong"]),
            found["errors"],
            self._restored() - before,
        )

    def _restored(self) -> int:
        stats = self._far.shell.json("fedsdn", "proxy", "stats", "--json")
        restored: int = stats["inbound_restored"]
        return restored
