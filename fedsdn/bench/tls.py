"""The benchmark of encryption: the same with TLS between the sites and without, turn about.

HAProxy may have its turns, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from fedsdn.bench.figures import Summary, summary
from fedsdn.bench.haproxy import HAProxy
from fedsdn.bench.rig import Rig
from fedsdn.config.model import Encryption
from fedsdn.errors import FedsdnError
from fedsdn.lab.build import Progress
from fedsdn.lab.host import Daemon, Host
from fedsdn.lab.operator import PROXY, write_settings
from fedsdn.lab.wait import wait_until
from fedsdn.traffic.values import TransferDirection
from fedsdn.verify.throughput import Wires, carry

_PROGRAM = ("python3", "-m", "fedsdn.bench.crowd")
_PORT = 15003
_SETTLE_SECONDS = 30.0
_ROUND_SECONDS = 300.0
_WARM_UP = 40
"""Connections at once: more than one worker has ready."""
_AT_ONCE = 16
_TICKS = os.sysconf("SC_CLK_TCK")

WAYS: tuple[Encryption, ...] = ("none", "tls")
By = Literal["fedsdn", "haproxy"]
"""Whose proxies carry."""
BY: tuple[By, ...] = ("fedsdn", "haproxy")
_DIRECTIONS: tuple[TransferDirection, ...] = ("upload", "download")

LEAST_GOODPUT, LEAST_SHORT = 0.98, 0.8
"""With TLS, as parts of what there is without."""
MOST_LATER_MS = 1.0
"""How much later the first byte may come, at the median."""


@dataclass(frozen=True, slots=True)
class Effort:
    """Rounds of each way: seconds of a transfer, connections in turn and in a crowd."""

    rounds: int
    seconds: float
    in_turn: int
    crowd: int


FULL = Effort(rounds=10, seconds=10.0, in_turn=200, crowd=3000)
QUICK = Effort(rounds=2, seconds=6.0, in_turn=60, crowd=800)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round found.

    ``goodput`` is in bit/s, ``cpu_per_gbit`` the seconds that both proxies needed for a Gbit of it.
    ``times_ms`` are from ``connect()`` to the first byte; ``short_per_cpu`` is short connections
    per second that both proxies' processors worked, ``handshakes`` is how many the near site made
    for them.
    """

    by: By
    way: Encryption
    goodput: float
    cpu_per_gbit: float
    times_ms: tuple[float, ...]
    short_per_cpu: float
    short: int
    handshakes: int
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """One way's rounds together: medians of the rounds, and the times of all connections."""

    by: By
    way: Encryption
    goodput: float
    cpu_per_gbit: float
    first_byte: Summary
    short_per_cpu: float
    short: int
    handshakes: int


@dataclass(slots=True)
class TlsResults:
    """All rounds so far."""

    rounds: list[Round] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """Say what failed, and what is beyond its bound."""
        said = [
            f"{one.by}, {one.way}: {error} ({n} times)"
            for one in self.rounds
            for error, n in one.errors.items()
        ]
        figures = {one.way: one for one in self.figures() if one.by == "fedsdn"}
        if len(figures) == len(WAYS):
            said += _beyond(figures["none"], figures["tls"])
        return said

    def figures(self) -> list[Figures]:
        """Sum the rounds up, each way by itself."""
        kinds = [(by, way) for by in BY for way in WAYS]
        return [one for kind in kinds if (one := self._figures(*kind)) is not None]

    def _figures(self, by: By, way: Encryption) -> Figures | None:
        rounds = [one for one in self.rounds if (one.by, one.way) == (by, way)]
        times = summary(time for one in rounds for time in one.times_ms)
        if times is None:
            return None
        return Figures(
            by,
            way,
            median(one.goodput for one in rounds),
            median(one.cpu_per_gbit for one in rounds),
            times,
            median(one.short_per_cpu for one in rounds),
            sum(one.short for one in rounds),
            sum(one.handshakes for one in rounds),
        )


def _beyond(none: Figures, tls: Figures) -> Iterator[str]:
    if tls.goodput < LEAST_GOODPUT * none.goodput:
        part = tls.goodput / none.goodput
        yield f"goodput with TLS is {part:.3f} of that without, less than {LEAST_GOODPUT:g}"
    later = tls.first_byte.median - none.first_byte.median
    if later > MOST_LATER_MS:
        yield f"the first byte comes {later:.1f} ms later with TLS, more than {MOST_LATER_MS:g}"
    if tls.short_per_cpu < LEAST_SHORT * none.short_per_cpu:
        part = tls.short_per_cpu / none.short_per_cpu
        yield f"short connections with TLS are {part:.2f} of those without, less than {LEAST_SHORT}"


def run(
    rig: Rig, effort: Effort, results: TlsResults, report: Progress, *, haproxy: bool = False
) -> None:
    """Measure; ``results`` has what was found so far at any time.

    Raises:
        FedsdnError: something cannot be measured.

    """
    bench = _Bench(rig, effort, haproxy=haproxy)
    with rig.sites[1].vms[0].shell.started(*_PROGRAM, "serve", str(_PORT)) as server:
        if not server.line():
            server.finish()
        for number in range(effort.rounds):
            for way in WAYS if number % 2 else WAYS[::-1]:
                for one in bench.rounds(way, _DIRECTIONS[number % 2]):
                    results.rounds.append(one)
                    report(
                        f"{one.by}, {way}: {one.goodput / 1e6:.1f} Mbit/s, first byte after "
                        f"{median(one.times_ms):.1f} ms, {one.short_per_cpu:.0f} connections per "
                        "CPU-second"
                    )


class _Bench:
    """A lab of two sites whose federation file is changed."""

    def __init__(self, rig: Rig, effort: Effort, *, haproxy: bool) -> None:
        self._haproxy = HAProxy(rig) if haproxy else None
        self._others: Sequence[tuple[Host, Daemon]] = ()
        """HAProxy's processes, while they carry."""
        self._rig = rig
        self._effort = effort
        self._near, self._far = rig.sites
        self._address = self._far.vms[0].address(4)
        if self._address is None:
            raise FedsdnError(f"site {self._far.name}: its VM has no IPv4 address")

    def switch(self, way: Encryption) -> None:
        """Have every site's file say what protects connections, and wait until it is so."""
        federation = replace(self._rig.lab.topology.federation, default_encryption=way)
        began = self._handshakes()
        for host in self._rig.lab.hosts:
            write_settings(host, federation)

        def settled() -> bool:
            before = self._handshakes()
            errors = self._connect(_WARM_UP, _WARM_UP)["errors"]
            now = self._handshakes()
            return not errors and (now > began if way == "tls" else now == before)

        wait_until(settled, _SETTLE_SECONDS, lambda: f"no site goes over to 'encryption: {way}'")

    def rounds(self, way: Encryption, direction: TransferDirection) -> Iterator[Round]:
        """Measure everything once, and with HAProxy too."""
        self.switch(way)
        yield self._round(way, direction)
        if self._haproxy is not None:
            with self._haproxy.running(way) as self._others, ExitStack() as stack:
                stack.callback(setattr, self, "_others", ())
                yield self._round(way, direction)

    def _round(self, way: Encryption, direction: TransferDirection) -> Round:
        wires = Wires(self._near, self._far, self._effort.seconds)
        before = self._cpu()
        carried = carry(wires, self._rig.path(4), direction).connection
        cpu, goodput = self._cpu() - before, wires.rate(carried)
        bits = 8 * (carried.received.size if carried.received else 0)
        in_turn = self._connect(self._effort.in_turn, 1)
        handshakes = self._handshakes()
        before = self._cpu()
        crowd = self._connect(self._effort.crowd, _AT_ONCE)
        used = self._cpu() - before
        return Round(
            "haproxy" if self._others else "fedsdn",
            way,
            goodput,
            cpu / (bits / 1e9) if bits else 0.0,
            tuple(in_turn["times_ms"]),
            len(crowd["times_ms"]) / used if used else 0.0,
            len(crowd["times_ms"]),
            self._handshakes() - handshakes,
            {**in_turn["errors"], **crowd["errors"]},
        )

    def _connect(self, count: int, at_once: int) -> dict[str, Any]:
        command = (*_PROGRAM, "connect", str(_PORT), str(self._address), str(count), str(at_once))
        shell = self._near.vms[0].shell
        return dict(json.loads(shell.output(*command, timeout=_ROUND_SECONDS)))

    def _handshakes(self) -> int:
        stats = self._near.shell.json("fedsdn", "proxy", "stats", "--json")
        return int(stats["handshakes"])

    def _cpu(self) -> float:
        """Return the seconds that both proxies' processors have worked."""
        if self._others:
            return sum(_used(host, [daemon.number]) for host, daemon in self._others)
        return sum(_used(host, _workers(host)) for host in self._rig.lab.hosts)


def _processes(host: Host) -> Path:
    return Path(f"/proc/{host.process.pid}/root/proc")


def _workers(host: Host) -> list[int]:
    parent = host.daemon(PROXY).number
    children = (_processes(host) / f"{parent}/task/{parent}/children").read_text()
    return [int(number) for number in children.split()]


def _used(host: Host, numbers: Sequence[int]) -> float:
    root = _processes(host)
    stats = [(root / f"{number}/stat").read_text().rpartition(")")[2].split() for number in numbers]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / _TICKS


def table(results: TlsResults) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """Return title, headings and rows."""
    figures = results.figures()
    plain = {one.by: one for one in figures if one.way == "none"}
    return (
        "The same with TLS between the sites and without (medians)",
        (
            *("proxies", "encryption", "goodput, Mbit/s", "part", "Gbit per CPU s"),
            *("first byte, ms", "p99"),
            *("later, ms", "short per CPU s", "part", "handshakes"),
        ),
        [_row(one, plain.get(one.by)) for one in figures],
    )


def _row(one: Figures, plain: Figures | None) -> tuple[str, ...]:
    compared = plain is not None and one is not plain
    later = one.first_byte.median - plain.first_byte.median if plain is not None else 0.0
    return (
        *(one.by, one.way, f"{one.goodput / 1e6:.1f}"),
        f"{one.goodput / plain.goodput:.3f}" if plain is not None and compared else "",
        f"{1 / one.cpu_per_gbit:.2f}" if one.cpu_per_gbit else "",
        *(f"{one.first_byte.median:.1f}", f"{one.first_byte.p99:.1f}"),
        f"{later:+.1f}" if compared else "",
        f"{one.short_per_cpu:.0f}",
        f"{one.short_per_cpu / plain.short_per_cpu:.2f}" if plain is not None and compared else "",
        f"{one.handshakes} for {one.short}" if (one.by, one.way) == ("fedsdn", "tls") else "",
    )
