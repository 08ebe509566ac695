"""The benchmark of doing no harm: short connections while uplinks flap, or lose packets.

With fedsdn's failover and with the kernel's alone, in turns.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from fedsdn.bench.cases import Control, Kind
from fedsdn.bench.rig import Rig
from fedsdn.bench.short import Outcome, Way
from fedsdn.config.model import Family
from fedsdn.errors import FedsdnError
from fedsdn.lab.build import Progress
from fedsdn.shell import Shell, Started

_PROGRAM = "fedsdn.bench.short"
_PORT = 15004
_AT_ONCE = 25
"""Connections at a time, of both families together."""
_ROUND = {Way.DOWNLOAD: 2500, Way.HALF_CLOSE: 10_000, Way.UNREAD: 5000}
"""So many connections of each family before the application is stopped or started again."""
_REPORT_SECONDS = 10.0

_UP_SECONDS = 1.5
_DOWN_SECONDS = 1.0
"""One wire is away for a second in four: so long after both were there, and as long before."""

FAMILIES: tuple[Family, ...] = (4, 6)


@dataclass(frozen=True, slots=True)
class Effort:
    """How many connections of each way, in every class: family, and who looks after uplinks.

    With ``loss_percent`` both wires lose that part of the packets, and none is pulled.
    """

    count: dict[Way, int]
    loss_percent: float = 0.0


FULL = Effort({Way.DOWNLOAD: 5000, Way.HALF_CLOSE: 50_000, Way.UNREAD: 10_000})
QUICK = Effort({Way.DOWNLOAD: 200, Way.HALF_CLOSE: 500, Way.UNREAD: 200})


@dataclass(frozen=True, slots=True)
class Round:
    """What became of some connections of one class, while a wire was pulled ``flaps`` times."""

    way: Way
    control: Control
    family: Family
    seconds: float
    flaps: int
    outcomes: dict[Outcome, int]
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Total:
    """What became of all connections of one class."""

    way: Way
    control: Control
    family: Family
    seconds: float
    flaps: int
    outcomes: Counter[Outcome]


@dataclass(slots=True)
class HarmResults:
    """All rounds so far, on wires that lose ``loss_percent`` of the packets; 0: that flap."""

    rounds: list[Round] = field(default_factory=list)
    loss_percent: float = 0.0

    @property
    def broken(self) -> list[str]:
        """Say which connections hung, ended cleanly with something else, or lost an answer."""
        return [
            f"{_name(one.way, one.control)}, IPv{one.family}: {one.outcomes[outcome]} {outcome}"
            for one in self.totals()
            for outcome in _broken(one.way)
            if one.outcomes[outcome]
        ]

    def totals(self) -> Iterator[Total]:
        """Sum the rounds of each class up, in the order in which classes were first measured."""
        for way, control, family in dict.fromkeys(
            (one.way, one.control, one.family) for one in self.rounds
        ):
            members = [
                one
                for one in self.rounds
                if (one.way, one.control, one.family) == (way, control, family)
            ]
            outcomes: Counter[Outcome] = Counter()
            for one in members:
                outcomes.update(one.outcomes)
            seconds = sum(one.seconds for one in members)
            yield Total(way, control, family, seconds, sum(one.flaps for one in members), outcomes)


def _broken(way: Way) -> tuple[Outcome, ...]:
    """Say what may not be; an answer that a reset has overtaken is lost."""
    lost = (Outcome.RESET,) if way is Way.UNREAD else ()
    return (Outcome.WRONG, Outcome.HUNG, *lost)


def shares(count: int, most: int) -> list[int]:
    """Split a number into parts that are not larger than ``most``, and about as large."""
    parts = -(-count // most)
    return [count // parts + (number < count % parts) for number in range(parts)]


def run(rig: Rig, effort: Effort, results: HarmResults, report: Progress) -> None:
    """Measure; ``results`` has what was found so far at any time.

    Raises:
        FedsdnError: something cannot be measured.

    """
    results.loss_percent = effort.loss_percent
    controls = list(Control)
    with rig.losing(effort.loss_percent):
        for way, count in effort.count.items():
            for share in shares(count, _ROUND[way]):
                for control in controls:
                    rig.put(control)
                    results.rounds += _round(rig, way, share, report, flaps=not effort.loss_percent)
                controls.reverse()  # the application is stopped or started once, not twice


def _round(rig: Rig, way: Way, count: int, report: Progress, *, flaps: bool) -> list[Round]:
    near, far = (view.vms[0] for view in rig.sites)
    addresses = {family: far.address(family) for family in FAMILIES}
    at_once = [_AT_ONCE // 2, _AT_ONCE - _AT_ONCE // 2]
    with ExitStack() as stack:
        server = stack.enter_context(
            far.shell.started(*far.shell.module(_PROGRAM), "serve", str(_PORT))
        )
        if not server.line():
            server.finish()
        flapping = stack.enter_context(_flapping(rig)) if flaps else None
        clients = {
            family: stack.enter_context(
                _clients(near.shell, way, str(address), count, at_once.pop())
            )
            for family, address in addresses.items()
            if address is not None
        }
        _watch(clients, f"{_name(way, rig.control)}", report)
        if flapping is not None:
            flapping.stop()
    pulled = flapping.count if flapping is not None else 0
    return [
        Round(way, rig.control, family, one.seconds, pulled, one.outcomes, one.examples)
        for family, one in clients.items()
    ]


def _watch(clients: dict[Family, _Clients], name: str, report: Progress) -> None:
    while any(one.is_alive() for one in clients.values()):
        deadline = time.monotonic() + _REPORT_SECONDS
        for one in clients.values():
            one.join(max(0.0, deadline - time.monotonic()))
        counts: Counter[Outcome] = Counter()
        for one in clients.values():
            counts.update(one.outcomes)
        report(f"{name}: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
    for one in clients.values():
        one.raise_trouble()


class _Clients(threading.Thread):
    """Reads what a client's process says of its connections."""

    def __init__(self, program: Started, count: int) -> None:
        super().__init__(daemon=True)
        self._program = program
        self._count = count
        self._trouble: FedsdnError | None = None
        self.outcomes: dict[Outcome, int] = {}
        self.examples: tuple[str, ...] = ()
        self.seconds = 0.0
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        while line := self._program.line():
            said = json.loads(line)
            self.outcomes = {Outcome(name): n for name, n in said["outcomes"].items()}
            self.examples = tuple(said["examples"])
        self.seconds = time.monotonic() - began
        try:
            self._program.finish()
        except FedsdnError as error:
            self._trouble = error

    def raise_trouble(self) -> None:
        """Raise FedsdnError if the process did not do its work."""
        if self._trouble is not None:
            raise self._trouble
        if sum(self.outcomes.values()) != self._count:
            raise FedsdnError(f"{self._program.name} did not tell of all its connections")


@contextmanager
def _clients(near: Shell, way: Way, address: str, count: int, at_once: int) -> Iterator[_Clients]:
    arguments = (way, str(_PORT), address, str(count), str(at_once))
    with near.started(*near.module(_PROGRAM), *arguments) as program:
        yield _Clients(program, count)


class _Flapping(threading.Thread):
    """Pulls one wire after the other, never two together."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(daemon=True)
        self._rig = rig
        self._ended = threading.Event()
        self._trouble: FedsdnError | None = None
        self.count = 0

    def run(self) -> None:
        try:
            while not self._ended.wait(_UP_SECONDS):
                uplink = self.count % 2
                self._rig.lose(Kind.WIRE, uplink, "upload")
                try:
                    self._ended.wait(_DOWN_SECONDS)
                finally:
                    self._rig.restore(Kind.WIRE, uplink, "upload")
                self.count += 1
                self._ended.wait(_UP_SECONDS)
        except FedsdnError as error:
            self._trouble = error

    def stop(self) -> None:
        """Put the wire back and stop; raises FedsdnError if the lab did not obey."""
        self._ended.set()
        self.join()
        if self._trouble is not None:
            raise self._trouble


@contextmanager
def _flapping(rig: Rig) -> Iterator[_Flapping]:
    flapping = _Flapping(rig)
    flapping.start()
    try:
        yield flapping
    finally:
        flapping.stop()


def _name(way: Way, control: Control) -> str:
    return f"{way}, {control}"
