"""Measures one connection's rate over uneven wires, and over the best alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from fedsdn.bench.cases import Kind, variations
from fedsdn.bench.connection import fast_connection
from fedsdn.bench.rig import Rig
from fedsdn.config.model import Family
from fedsdn.traffic.values import TransferDirection

EARLY_SECONDS = 2.5
"""Seconds over which the early rate is measured."""

SECONDS = 10.0
_POLL_SECONDS = 0.1
_BEST, _OTHER = 0, 1


class Wires(StrEnum):
    """How the second wire is worse than the first; times are round trips."""

    SLOW = "100 + 10 Mbit/s, 10 + 80 ms"
    LOSSY = "100 + 100 Mbit/s, 0 + 2 % loss"


_CHANGES: dict[Wires, dict[int, dict[str, float]]] = {
    Wires.SLOW: {
        _BEST: {"delay_ms": 5, "rate_mbit": 100},
        _OTHER: {"delay_ms": 40, "rate_mbit": 10},
    },
    Wires.LOSSY: {_OTHER: {"loss_percent": 2}},
}


@dataclass(frozen=True, slots=True)
class Carried:
    """One connection's rates in Mbit/s: early and overall.

    With ``both`` wires, or with the better one alone.
    """

    wires: Wires
    both: bool
    direction: TransferDirection
    family: Family
    early_mbit: float
    mbit: float
    error: str | None


def measure(rig: Rig, rounds: int, report: Callable[[Carried], None]) -> None:
    """Measure both wires and the best alone, turn about, and ``report`` each.

    Raises:
        FedsdnError: a connection cannot be opened, or the lab does not obey.

    """
    for wires in Wires:
        with _changed(rig, wires):
            for _, direction, family in variations(rounds):
                for both in (True, False):
                    with _other(rig, there=both):
                        report(_carried(rig, wires, direction, family, both=both))


def _carried(
    rig: Rig, wires: Wires, direction: TransferDirection, family: Family, *, both: bool
) -> Carried:
    path = rig.path(family)
    ends = (path.near_vm.shell, path.far_vm.shell)
    with fast_connection(*ends, path.destination, direction) as connection:
        start = time.monotonic()
        while time.monotonic() < start + SECONDS and connection.alive():
            time.sleep(_POLL_SECONDS)
        ending = connection.finish()
        return Carried(
            *(wires, both, direction, family),
            early_mbit=connection.received(start, start + EARLY_SECONDS) * 8e-6 / EARLY_SECONDS,
            mbit=connection.received(start, start + SECONDS) * 8e-6 / SECONDS,
            error=ending.error,
        )


@contextmanager
def _changed(rig: Rig, wires: Wires) -> Iterator[None]:
    """Make the wires so meanwhile."""
    changes = _CHANGES[wires]
    try:
        for index, change in changes.items():
            rig.lab.change_wire(rig.wires[index].name, **change)
        yield
    finally:
        for index, change in changes.items():
            wire = rig.wires[index]
            usual = {name: getattr(wire.quality, name) for name in change}
            rig.lab.change_wire(wire.name, **usual)


@contextmanager
def _other(rig: Rig, *, there: bool) -> Iterator[None]:
    """Take the worse wire away meanwhile, or leave it."""
    if there:
        rig.wait_steady()
        yield
        return
    rig.lose(Kind.WIRE, _OTHER, "upload")
    try:
        yield
    finally:
        rig.restore(Kind.WIRE, _OTHER, "upload")
