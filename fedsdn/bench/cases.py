"""The measured losses, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice, product

from fedsdn.config.model import Family
from fedsdn.traffic.values import TransferDirection


class Kind(StrEnum):
    """Ways to lose an uplink."""

    WIRE = "wire"
    """Both ends lose their carrier."""
    NEAR_PORT = "port, sender's side"
    """The device is set down at the sender's site; the other end keeps its carrier."""
    FAR_PORT = "port, receiver's side"
    SILENT = "silent"
    """Every frame vanishes; both ends keep their carrier."""


class Control(StrEnum):
    """Who manages the uplinks."""

    APPLICATION = "application"
    KERNEL = "kernel alone"
    """The application is stopped at every site."""


@dataclass(frozen=True, slots=True)
class Case:
    """One loss. ``uplink`` counts from 0; uploads go from the first site to the second.

    ``live`` is how many idle connections there are beside the fast one.
    """

    kind: Kind
    control: Control
    uplink: int
    direction: TransferDirection
    family: Family
    live: int = 0


_DIRECTIONS: tuple[TransferDirection, ...] = ("upload", "download")
_FAMILIES: tuple[Family, ...] = (4, 6)


def variations(n: int) -> Iterator[tuple[int, TransferDirection, Family]]:
    """Yield ``n`` of uplink, direction and family: each four in a row have each of them twice.

    Uplinks take turns: one that is lost often is used again with a delay on purpose.
    """
    every = [
        (uplink, _DIRECTIONS[direction], _FAMILIES[uplink ^ direction ^ odd])
        for odd, direction, uplink in product((0, 1), repeat=3)
    ]
    return islice(cycle(every), n)


def losses(n: int) -> Iterator[Case]:
    """Yield ``n`` losses of every kind, with and without the application, interleaved.

    So whatever else the machine does in the meantime does it to all of them. Uplinks take turns
    from each loss to the next.
    """
    controls, kinds = list(Control), list(enumerate(Kind))
    for uplink, direction, family in variations(n):
        for control in controls:
            for number, kind in kinds:
                yield Case(kind, control, uplink ^ (number & 1), direction, family)
        controls.reverse()  # the application is stopped or started once in a round, not twice
        kinds.reverse()


def losses_beside(n: int, live: int) -> Iterator[Case]:
    """Yield ``n`` losses of a wire, with ``live`` idle connections beside the fast one."""
    for uplink, direction, family in variations(n):
        yield Case(Kind.WIRE, Control.APPLICATION, uplink, direction, family, live)
