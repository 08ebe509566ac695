"""The benchmark of readers who do not read: what they cost the host, and others' transfers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fedsdn.bench.connection import FastConnection, fast_connection
from fedsdn.bench.memory import Memory, memory
from fedsdn.bench.rig import Rig
from fedsdn.config.model import Address, Family
from fedsdn.errors import FedsdnError
from fedsdn.lab.build import Progress
from fedsdn.lab.wait import wait_until
from fedsdn.verify.view import SiteView, Vm

_PROGRAM = "fedsdn.bench.stalled_readers"
_PORT = 15006
_WARM_UP_SECONDS = 5.0
_WATCH_SECONDS = 10.0
_GONE_SECONDS = 60.0
_FAMILIES: tuple[Family, ...] = (4, 6)

LEAST_PART = 0.9
"""What a transfer is to keep of its rate."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How many rounds, and how many stalled readers in each."""

    rounds: int
    readers: int


FULL = Effort(rounds=4, readers=1000)
QUICK = Effort(rounds=2, readers=100)


@dataclass(frozen=True, slots=True)
class Round:
    """A transfer before stalled readers came, beside them, and after they went.

    Rates are Mbit/s; ``filling`` is that while the readers' connections were opened and filled,
    ``taken`` the bytes that their senders could send, ``memory`` what all that took.
    """

    family: Family
    readers: int
    before: float
    filling: float
    beside: float
    after: float
    filled_seconds: float
    taken: int
    memory: Memory
    errors: dict[str, int]
    broken: str | None

    @property
    def part(self) -> float:
        """What the transfer kept of its rate: of the mean before and after, on a busy machine."""
        alone = (self.before + self.after) / 2
        return self.beside / alone if alone else 0.0


@dataclass(slots=True)
class StalledResults:
    """All rounds so far."""

    rounds: list[Round] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """Say which transfers broke, and which readers' connections failed."""
        return [
            f"IPv{one.family}: {what}"
            for one in self.rounds
            for what in (
                *(f"{error} ({n} times)" for error, n in one.errors.items()),
                *([f"the transfer: {one.broken}"] if one.broken else []),
            )
        ]


def run(rig: Rig, effort: Effort, results: StalledResults, report: Progress) -> None:
    """Measure; ``results`` has what was found so far at any time.

    Raises:
        FedsdnError: something cannot be measured.

    """
    for number in range(effort.rounds):
        one = _round(rig, _FAMILIES[number % 2], effort.readers)
        results.rounds.append(one)
        report(
            f"IPv{one.family}: {one.before:.0f} Mbit/s before, {one.beside:.0f} beside "
            f"{one.readers} stalled readers, {one.after:.0f} after"
        )


def _round(rig: Rig, family: Family, readers: int) -> Round:
    near, far = rig.sites
    without = memory(rig.sites)
    with fast_connection(
        near.vms[0].shell, far.vms[0].shell, _address(far.vms[0], family), "upload"
    ) as transfer:
        before = _rate(transfer, _WARM_UP_SECONDS)
        began = time.monotonic()
        with _stalled(near.vms[-1], far.vms[-1], family, readers) as (taken, errors):
            filled = time.monotonic()
            beside = _rate(transfer, _WARM_UP_SECONDS)
            held = memory(rig.sites)
        filling = _mbit(transfer, began, filled)
        _wait_until_only(rig, 1)
        after = _rate(transfer, _WARM_UP_SECONDS)
        ending = transfer.finish()
    _wait_until_only(rig, 0)
    return Round(
        *(family, readers, before, filling, beside, after, filled - began, taken),
        held - without,
        errors,
        ending.error,
    )


def _rate(transfer: FastConnection, after: float) -> float:
    time.sleep(after)
    began = time.monotonic()
    time.sleep(_WATCH_SECONDS)
    return _mbit(transfer, began, time.monotonic())


def _mbit(transfer: FastConnection, start: float, end: float) -> float:
    return transfer.received(start, end) * 8e-6 / (end - start)


@contextmanager
def _stalled(near: Vm, far: Vm, family: Family, count: int) -> Iterator[tuple[int, dict[str, int]]]:
    """Have so many connections full while the block runs; give what was taken, and errors."""
    with far.shell.started(*far.shell.module(_PROGRAM), "hold", str(_PORT)) as holder:
        if not holder.line():
            holder.finish()
        arguments = ("fill", str(_PORT), str(_address(far, family)), str(count))
        with near.shell.started(*near.shell.module(_PROGRAM), *arguments) as filler:
            said = filler.line()
            if not said:
                filler.finish()
            found = json.loads(said)
            yield found["taken"], found["errors"]


def _address(vm: Vm, family: Family) -> Address:
    address = vm.address(family)
    if address is None:
        raise FedsdnError(f"VM {vm.name} has no IPv{family} address")
    return address


def _wait_until_only(rig: Rig, count: int) -> None:
    wait_until(
        lambda: all(_open(view) <= count for view in rig.sites),
        _GONE_SECONDS,
        lambda: "the stalled readers' connections do not end",
    )


def _open(view: SiteView) -> int:
    stats = view.shell.json(*view.fedsdn, "proxy", "stats", "--json")
    return int(stats["outbound_open"]) + int(stats["inbound_open"])
