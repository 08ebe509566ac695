"""The benchmark of restarts: the proxy reloaded, and the application killed, under connections."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fedsdn.bench.messages import LATE_MS
from fedsdn.bench.rig import Rig
from fedsdn.errors import FedsdnError
from fedsdn.lab.build import Progress
from fedsdn.lab.operator import CONTROLLER
from fedsdn.shell import Started

_PROGRAM = "fedsdn.bench.messages"
_PORT = 15006
_RELOAD_SECONDS = 150.0
_REST_SECONDS = 1.0
"""Between two restarts."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: restarts, connections that stay open, new ones a second."""

    reloads: int
    reload_connections: int
    kills: int
    kill_connections: int
    new_per_second: float

    messages_per_second: float = 1000.0


FULL = Effort(20, 200, 50, 1000, 20.0)
QUICK = Effort(4, 200, 4, 200, 5.0, 200.0)


@dataclass(frozen=True, slots=True)
class Restarts:
    """What ``count`` restarts did to connections; ``count`` 0 is the same without any.

    ``late`` are messages that took ``LATE_MS`` longer than half of them did. ``new`` connections
    carry one message each; their time is until its answer. ``leaving`` is how many old workers
    there were at most, at one site, and ``load`` the machine's load average in the end.
    """

    what: str
    count: int
    seconds: float
    connections: int
    messages: int
    late: int
    median_ms: float
    worst_ms: float
    broken: dict[str, int]
    new: int
    new_median_ms: float
    new_worst_ms: float
    failed: dict[str, int]
    leaving: int
    load: float


@dataclass(slots=True)
class RestartResults:
    """All measurements so far."""

    measured: list[Restarts] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """Say which connections broke, and which new ones were not made."""
        return [
            f"{one.what}: {kind}: {error} ({n} times)"
            for one in self.measured
            for kind, errors in (("open connection", one.broken), ("new connection", one.failed))
            for error, n in errors.items()
        ]


def run(rig: Rig, effort: Effort, results: RestartResults, report: Progress) -> None:
    """Measure; ``results`` has what was found so far at any time.

    Raises:
        FedsdnError: something cannot be measured.

    """
    parts: tuple[tuple[str, int, int, float, Callable[[int], int]], ...] = (
        (
            *("proxy reloaded", effort.reloads, effort.reload_connections),
            *(effort.new_per_second, lambda number: _reload(rig, number)),
        ),
        (
            *("application killed", effort.kills, effort.kill_connections),
            *(0.0, lambda number: _kill(rig, number)),
        ),
    )
    for what, count, connections, rate, restart in parts:
        if not count:
            continue
        with _talking(rig, connections, connections / effort.messages_per_second, rate) as talker:
            began = time.monotonic()
            leaving = max(_each(restart, count))
            took = time.monotonic() - began
            results.measured.append(_asked(talker, what, count, took, connections, leaving))
            time.sleep(took / 2)
            alone = _asked(talker, "nothing", 0, took / 2, connections, 0)
            results.measured.append(alone)
        one = results.measured[-2]
        report(
            f"{what} {count} times: {sum(one.broken.values())} of {connections} connections broke, "
            f"{sum(one.failed.values())} of {one.new} new ones failed, {one.late} of "
            f"{one.messages} messages late"
        )


def _each(restart: Callable[[int], int], count: int) -> Iterator[int]:
    for number in range(count):
        yield restart(number)
        time.sleep(_REST_SECONDS)


def _reload(rig: Rig, number: int) -> int:
    """Reload the proxy of one site, in turn; return how many old workers there are."""
    view = rig.sites[number % 2]
    view.shell.output(*view.fedsdn, "proxy", "reload", timeout=_RELOAD_SECONDS)
    statistics = view.shell.json(*view.fedsdn, "proxy", "stats", "--json")
    return int(statistics["leaving"])


def _kill(rig: Rig, number: int) -> int:
    """Kill the application of one site, in turn, and start it again."""
    name = rig.sites[number % 2].name
    host = next(host for host in rig.lab.hosts if host.name == name)
    host.daemon(CONTROLLER).signal("KILL")
    rig.start(host)
    return 0


@contextmanager
def _talking(rig: Rig, count: int, period: float, rate: float) -> Iterator[Started]:
    near, far = (view.vms[0] for view in rig.sites)
    listen = (*far.shell.module(_PROGRAM), "answer", str(_PORT))
    numbers = map(str, (_PORT, count, period, rate))
    addresses = map(str, far.addresses)
    with far.shell.started(*listen) as answering:
        if not answering.line():
            answering.finish()
        talk = (*near.shell.module(_PROGRAM), "talk", *numbers, *addresses)
        with near.shell.started(*talk) as talker:
            if not talker.line():
                talker.finish()
            time.sleep(_REST_SECONDS)
            talker.ask("begin")
            yield talker


def _asked(
    talker: Started, what: str, count: int, seconds: float, connections: int, leaving: int
) -> Restarts:
    said = talker.ask("what was it")
    if not said:
        talker.finish()
        raise FedsdnError(f"{talker.name} says nothing")
    found: dict[str, Any] = json.loads(said)
    return Restarts(
        what=what,
        count=count,
        seconds=seconds,
        connections=connections,
        leaving=leaving,
        load=os.getloadavg()[0],
        **found,
    )


def table(results: RestartResults) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """Return title, headings and rows."""
    return (
        "Restarts under connections",
        (
            *("what", "times", "seconds", "open", "broke", "messages", "median, ms", "worst"),
            *(f"late by {LATE_MS:g} ms", "new", "failed", "median, ms", "worst"),
            *("old workers", "load"),
        ),
        [
            (
                *(one.what, str(one.count), f"{one.seconds:.0f}", str(one.connections)),
                *(str(sum(one.broken.values())), str(one.messages), f"{one.median_ms:.0f}"),
                *(f"{one.worst_ms:.0f}", str(one.late), str(one.new)),
                *(str(sum(one.failed.values())), f"{one.new_median_ms:.0f}"),
                *(f"{one.new_worst_ms:.0f}", str(one.leaving), f"{one.load:.1f}"),
            )
            for one in results.measured
        ],
    )
