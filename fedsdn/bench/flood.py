"""The benchmark of a VM's SYN flood: what others' connections, a transfer and the memory feel."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Event, Thread

from fedsdn.bench.connection import FastConnection, fast_connection
from fedsdn.bench.guests import Guest, counting, guests
from fedsdn.bench.memory import Memory, memory
from fedsdn.bench.neighbour import Connections, Times
from fedsdn.bench.rig import Rig
from fedsdn.config.model import Family
from fedsdn.errors import FedsdnError
from fedsdn.lab.build import Progress
from fedsdn.pipeline.declarations import SOCKSIFIER_PORT

_PROGRAM = "fedsdn.bench.syns"
_FAMILIES: tuple[Family, ...] = (4, 6)
_WARM_UP_SECONDS = 4.0
_SAMPLE_SECONDS = 0.25
_NO_RESETS = "tcp flags & rst == rst drop"
"""The flooder's kernel, which knows nothing of the SYNs, is not to tidy up behind them."""

MOST_TIMES = 2.0
"""What others' new connections may take, in times of what they take without a flood."""
LEAST_PART = 0.9
"""What an established transfer is to keep of its rate."""
MOST_SECONDS = 1.2
"""How long the SYNs may take to go out, in times of what they are meant to."""
LEAST_ARRIVED = 0.95
"""How many of them are to come to the proxy: of fewer it is no flood."""


class Port(StrEnum):
    """What the flood goes to."""

    CLOSED = "closed port"
    SILENT = "silent host"
    OPEN = "open port"


@dataclass(frozen=True, slots=True)
class Effort:
    """How many SYNs in how many seconds, and how long before and after it is measured."""

    count: int
    seconds: float
    rest: float
    families: tuple[Family, ...]


FULL = Effort(20_000, 5.0, 20.0, _FAMILIES)
QUICK = Effort(20_000, 5.0, 8.0, (4,))


@dataclass(frozen=True, slots=True)
class Syns:
    """What became of one flood: ``arrived`` at the flooder's own proxy."""

    count: int
    arrived: int
    seconds_meant: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Round:
    """One flood: connections, rates in Mbit/s and memory before, during and after it."""

    port: Port
    family: Family
    syns: Syns
    before: Times
    during: Times
    after: Times
    rate_before: float
    rate_during: float
    rate_after: float
    at_most: Memory
    """Beyond what there was before."""
    left: Memory
    broken: str | None

    @property
    def part(self) -> float:
        """What the transfer kept, of the mean before and after."""
        alone = (self.rate_before + self.rate_after) / 2
        return self.rate_during / alone if alone else 0.0

    @property
    def times(self) -> float:
        """How many times longer others' connections took, at the median of the worse kind."""
        return max(
            self.during.known.median / self.before.known.median,
            self.during.first.median / self.before.first.median,
        )


@dataclass(slots=True)
class FloodResults:
    """All rounds so far."""

    rounds: list[Round] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """Say what failed, and what is beyond its bound."""
        return [
            f"{one.port}, IPv{one.family}: {what}" for one in self.rounds for what in _failed(one)
        ]


def _failed(one: Round) -> Iterator[str]:
    if one.broken:
        yield f"the transfer: {one.broken}"
    for when, times in (("before", one.before), ("during", one.during), ("after", one.after)):
        if times.failed:
            yield f"{times.failed} connections of others failed {when} the flood"
    if one.times > MOST_TIMES:
        yield f"others' connections took {one.times:.1f} times as long, more than {MOST_TIMES:g}"
    if one.part < LEAST_PART:
        yield f"the transfer kept {one.part:.2f} of its rate, less than {LEAST_PART:g}"
    syns = one.syns
    if syns.seconds > MOST_SECONDS * syns.seconds_meant:
        yield f"the SYNs took {syns.seconds:.1f} s to go out, not {syns.seconds_meant:g}"
    if syns.arrived < LEAST_ARRIVED * syns.count:
        yield f"{syns.arrived} of {syns.count} SYNs came to the proxy"


def run(rig: Rig, effort: Effort, results: FloodResults, report: Progress) -> None:
    """Measure; ``results`` has what was found so far at any time.

    Raises:
        FedsdnError: something cannot be measured.

    """
    near, far = rig.sites
    with guests(rig.lab, {near.name: 2, far.name: 2}) as made:
        scene = _Scene(rig, effort, *made[near.name], *made[far.name])
        for family in effort.families:
            for port in Port:
                one = scene.flood(port, family)
                results.rounds.append(one)
                report(f"{port}, IPv{family}: others' connections took {one.times:.1f} times")


@dataclass(frozen=True, slots=True)
class _Scene:
    rig: Rig
    effort: Effort
    flooder: Guest
    neighbour: Guest
    flooded: Guest
    server: Guest

    def flood(self, port: Port, family: Family) -> Round:
        near, far = (view.vms[0] for view in self.rig.sites)
        address = far.address(family)
        if address is None:
            raise FedsdnError(f"VM {far.name} has no IPv{family} address")
        with (
            fast_connection(near.shell, far.shell, address, "upload") as transfer,
            self._target(port, family) as target,
            self.flooder.filtering(_NO_RESETS, hook="output"),
            counting(self.rig.sites[0].proxy, self._from_flooder(family)) as arrived,
        ):
            time.sleep(_WARM_UP_SECONDS)
            without = memory(self.rig.sites)
            rate_before, before, _ = self._watch(transfer, family, self._rest)
            seconds: list[float] = []
            rate_during, during, most = self._watch(
                transfer, family, lambda: seconds.append(self._send(target, family))
            )
            rate_after, after, later = self._watch(transfer, family, self._rest)
            left = memory(self.rig.sites)
            syns = Syns(self.effort.count, arrived.packets, self.effort.seconds, seconds[0])
            ending = transfer.finish()
        return Round(
            *(port, family, syns, before, during, after),
            *(rate_before, rate_during, rate_after),
            (most | later) - without,
            left - without,
            ending.error,
        )

    def _from_flooder(self, family: Family) -> str:
        header = "ip" if family == 4 else "ip6"
        return f"iifname {SOCKSIFIER_PORT} {header} saddr {self.flooder.address(family)}"

    def _rest(self) -> None:
        time.sleep(self.effort.rest)

    @contextmanager
    def _target(self, port: Port, family: Family) -> Iterator[tuple[str, int]]:
        with self.flooded.listen(family) as listener:
            address: tuple[str, int] = listener.getsockname()[:2]
            if port is Port.CLOSED:
                listener.close()
            silent = self.flooded.filtering("meta l4proto tcp drop")
            with silent if port is Port.SILENT else nullcontext():
                yield address

    def _send(self, target: tuple[str, int], family: Family) -> float:
        shell, effort = self.flooder.shell, self.effort
        said = shell.output(
            *shell.module(_PROGRAM),
            *(self.flooder.address(family), target[0], str(target[1])),
            *(str(effort.count), str(effort.seconds)),
            timeout=10 * effort.seconds,
        )
        seconds: float = json.loads(said)["seconds"]
        return seconds

    def _watch(
        self, transfer: FastConnection, family: Family, work: Callable[[], None]
    ) -> tuple[float, Times, Memory]:
        """Open connections and look at the memory while ``work`` goes on."""
        ended, most = Event(), memory(self.rig.sites)
        connections = Connections(self.neighbour, self.server, family, ended)
        began = time.monotonic()
        working = Thread(target=work, daemon=True)
        working.start()
        while working.is_alive():
            working.join(_SAMPLE_SECONDS)
            most |= memory(self.rig.sites)
        end = time.monotonic()
        ended.set()
        connections.join()
        rate = transfer.received(began, end) * 8e-6 / (end - began)
        return rate, connections.times(), most | memory(self.rig.sites)


Rows = Sequence[Sequence[str]]


def table(results: FloodResults) -> tuple[str, Sequence[str], Rows]:
    """Return title, headings and rows."""
    marks = {True: "✓", False: "✗"}
    return (
        "A VM's flood of SYNs beside others (ms to the first byte; MB beyond what there was)",
        (
            *("to", "IP", "s", "known: before", "during", "worst", "new: before", "during"),
            *("worst", "times", "", "transfer keeps", "", "proxies at most", "left"),
            *("TCP at most", "left", "slab at most", "left"),
        ),
        [
            (
                *(one.port, f"IPv{one.family}", f"{one.syns.seconds:.1f}"),
                *(f"{one.before.known.median:.0f}", f"{one.during.known.median:.0f}"),
                f"{one.during.known.worst:.0f}",
                *(f"{one.before.first.median:.0f}", f"{one.during.first.median:.0f}"),
                f"{one.during.first.worst:.0f}",
                *(f"{one.times:.1f}", marks[one.times <= MOST_TIMES]),
                *(f"{one.part:.2f}", marks[one.part >= LEAST_PART]),
                *(
                    f"{kilobytes / 1000:.1f}"
                    for kilobytes in (
                        *(one.at_most.proxies, one.left.proxies),
                        *(one.at_most.sockets, one.left.sockets),
                        *(one.at_most.slab, one.left.slab),
                    )
                ),
            )
            for one in results.rounds
        ],
    )
