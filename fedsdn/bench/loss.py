"""Measures one loss of an uplink under a fast connection."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fedsdn.bench.cases import Case
from fedsdn.bench.connection import FastConnection, fast_connection
from fedsdn.bench.rig import Meter, Rig
from fedsdn.bench.subflows import SubflowReader, reading
from fedsdn.errors import FedsdnError

FULL_PART = 0.9
"""Part of an uplink's earlier rate at which it counts as used again."""

_WARM_PART = 0.8
"""Part of each wire that a connection must fill before its uplink is lost."""
_WARM_SECONDS = 2.0
_WARM_LIMIT = 20.0
_WINDOW = 1.0
"""Seconds of the rate measurement before a loss."""
_WATCH_SECONDS = 2.0
_FLOWS_PART = 0.25
"""Part of the earlier rate at which the receiver counts as served again."""
_FLOWS_SECONDS = 0.5
_SILENCE_LIMIT = 60.0
_BACK_WINDOW = 0.25
"""Longer than the queue before a wire: what has just filled that is not carried yet."""
_BACK_LIMIT = 30.0
_TRIES = 3


@dataclass(frozen=True, slots=True)
class MeasuredLoss:
    """What was measured of one loss.

    ``silence_ms`` is the receiver's longest silence from the loss until the uplink was put back,
    ``noise_ms`` that of the second before the loss, ``rtt_ms`` the smoothed round-trip time of the
    subflow on the uplink that was left, ``lost_rtt_ms`` of that on the lost one (None: it had
    none). ``back_ms`` is the time from then until the uplink carried ``FULL_PART`` of what it had
    before; None: it did not within the limit. ``error`` says what was lost or broken.
    """

    case: Case
    silence_ms: float
    noise_ms: float
    rtt_ms: float | None
    lost_rtt_ms: float | None
    before_mbit: float
    back_ms: float | None
    bytes: int
    error: str | None


class NotWarmError(FedsdnError):
    """A connection did not fill both wires."""


def measure(rig: Rig, case: Case) -> MeasuredLoss:
    """Lose an uplink and put it back.

    Raises:
        FedsdnError: no connection fills both wires, or the lab does not obey.

    """
    for _ in range(_TRIES - 1):
        try:
            return _measure(rig, case)
        except NotWarmError:
            continue
    return _measure(rig, case)


def _measure(rig: Rig, case: Case) -> MeasuredLoss:
    rig.put(case.control)
    path = rig.path(case.family)
    meter = rig.meter(case.direction)
    ends = (path.near_vm.shell, path.far_vm.shell)
    with (
        reading(rig.sender(case.direction)) as subflows,
        fast_connection(*ends, path.destination, case.direction) as connection,
    ):
        _warm_up(rig, meter)
        before = meter.rate(case.uplink, _WINDOW)
        rtt = _round_trips(rig, case, subflows)
        lost = time.monotonic()
        rig.lose(case.kind, case.uplink, case.direction)
        _watch(connection, meter, lost)
        put_back = time.monotonic()
        rig.restore(case.kind, case.uplink, case.direction)
        back = _wait_used(meter, case.uplink, FULL_PART * before)
        ending = connection.finish()
        return MeasuredLoss(
            case=case,
            silence_ms=connection.silence(lost, put_back) * 1e3,
            noise_ms=connection.silence(lost - _WINDOW, lost) * 1e3,
            rtt_ms=rtt[1 - case.uplink],
            lost_rtt_ms=rtt[case.uplink],
            before_mbit=before * 8 / 1e6,
            back_ms=back,
            bytes=ending.received,
            error=ending.error,
        )


def _warm_up(rig: Rig, meter: Meter) -> None:
    start = time.monotonic()
    while (now := meter.sample()) < start + _WARM_LIMIT:
        rates = [meter.rate(index, _WINDOW) for index in (0, 1)]
        filled = all(r >= _WARM_PART * rig.capacity(index) for index, r in enumerate(rates))
        if filled and now >= start + _WARM_SECONDS:
            return
    listed = " and ".join(f"{carried * 8 / 1e6:.0f}" for carried in rates)
    raise NotWarmError(
        f"a connection carried only {listed} Mbit/s over the two wires after {_WARM_LIMIT:g} s: "
        "see 'fedsdn verify' on such a lab, and that nothing else loads this machine"
    )


def _round_trips(rig: Rig, case: Case, subflows: SubflowReader) -> list[float | None]:
    """Return the longest smoothed round-trip time on each uplink of the sender's, in ms."""
    sender = rig.sender(case.direction)
    busy = subflows.busy()
    times = []
    for index in (0, 1):
        address = rig.address(sender, index)
        found = [subflow.rtt_ms for subflow in busy if subflow.local == address]
        times.append(max(found, default=None))
    return times


def _watch(connection: FastConnection, meter: Meter, lost: float) -> None:
    """Wait until the receiver is served again, and for a while at any rate."""
    enough = _FLOWS_PART * connection.received(lost - _FLOWS_SECONDS, lost)
    while (now := meter.sample()) < lost + _SILENCE_LIMIT and connection.alive():
        flows = connection.received(now - _FLOWS_SECONDS, now) >= enough
        if flows and now >= lost + _WATCH_SECONDS:
            return


def _wait_used(meter: Meter, uplink: int, least: float) -> float | None:
    """Return how many ms from now a wire carries ``least`` bytes per second again."""
    meter.forget()
    start = time.monotonic()
    while (now := meter.sample()) < start + _BACK_LIMIT:
        if meter.rate(uplink, _BACK_WINDOW) >= least:
            return (now - start) * 1e3
    return None
