"""Random flaps of uplinks under connections that must not break."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from fedsdn.bench.cases import Control, Kind
from fedsdn.bench.connection import fast_connection
from fedsdn.bench.live import live_connections
from fedsdn.bench.rig import Rig
from fedsdn.errors import FedsdnError

_LONGEST_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Flap:
    """An uplink is down for ``down`` seconds, then up for ``up``."""

    kind: Kind
    uplink: int
    down: float
    up: float


@dataclass(frozen=True, slots=True)
class Flaps:
    """What ``count`` flaps did to a running connection and ``live`` idle ones.

    ``silence_ms`` is the receiver's longest silence in all that time, ``settled_ms`` how long after
    the last flap the endpoints were right at both sites; None: not within the limit. ``errors`` are
    the resets and losses of connections.
    """

    seed: int
    count: int
    live: int
    bytes: int
    silence_ms: float
    settled_ms: float | None
    endpoints: str
    errors: tuple[str, ...]


def random_flaps(seed: int, count: int) -> Iterator[Flap]:
    """Yield flaps of every kind that somebody can see; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    kinds = [kind for kind in Kind if kind is not Kind.SILENT]
    for _ in range(count):
        yield Flap(
            chance.choice(kinds),
            chance.randrange(2),
            chance.uniform(0, _LONGEST_SECONDS),
            chance.uniform(0, _LONGEST_SECONDS),
        )


def measure(rig: Rig, seed: int, count: int, live: int) -> Flaps:
    """Let uplinks flap under connections.

    Raises:
        FedsdnError: the connections cannot be opened, or the lab does not obey.

    """
    rig.put(Control.APPLICATION)
    path = rig.path(4)
    ends = (path.near_vm.shell, path.far_vm.shell)
    with (
        live_connections(rig, live) as idle,
        fast_connection(*ends, path.destination, "upload") as connection,
    ):
        start = time.monotonic()
        for flap in random_flaps(seed, count):
            time.sleep(flap.up)
            rig.lose(flap.kind, flap.uplink, "upload")
            time.sleep(flap.down)
            rig.restore(flap.kind, flap.uplink, "upload")
        end = time.monotonic()
        wrong = _settle(rig)
        settled = time.monotonic() - end
        ending = connection.finish()
        errors = ([ending.error] if ending.error else []) + idle.finish()
        return Flaps(
            seed=seed,
            count=count,
            live=live,
            bytes=ending.received,
            silence_ms=connection.silence(start, end) * 1e3,
            settled_ms=None if wrong else settled * 1e3,
            endpoints=wrong or "right",
            errors=tuple(errors),
        )


def _settle(rig: Rig) -> str:
    """Wait until the endpoints are right; return what is wrong if they never are."""
    try:
        rig.wait_steady()
    except FedsdnError as error:
        return str(error)
    return ""
