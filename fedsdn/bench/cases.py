"""Which losses are measured, and in what order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice, product

from fedsdn.config.model import Family
from fedsdn.diagnostics.traffic import Direction


class Kind(StrEnum):
    """How an uplink is lost."""

    WIRE = "wire"
    """Both ends lose their carrier."""
    NEAR_PORT = "port, sender's side"
    """The device is set down at the site that sends; the other end keeps its carrier."""
    FAR_PORT = "port, receiver's side"
    SILENT = "silent"
    """Every frame vanishes; both ends keep their carrier."""


class Control(StrEnum):
    """Who looks after the uplinks."""

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
    direction: Direction
    family: Family
    live: int = 0


_DIRECTIONS: tuple[Direction, ...] = ("upload", "download")
_FAMILIES: tuple[Family, ...] = (4, 6)


def variations(n: int) -> Iterator[tuple[int, Direction, Family]]:
    """Yield ``n`` of uplink, direction and family: each four in a row have each of them twice."""
    every = [
        (uplink, _DIRECTIONS[direction], _FAMILIES[uplink ^ direction ^ odd])
        for odd, uplink, direction in product((0, 1), repeat=3)
    ]
    return islice(cycle(every), n)


def losses(n: int) -> Iterator[Case]:
    """Yield ``n`` losses of every kind, with and without the application, interleaved.

    So whatever else the machine does in the meantime does it to all of them.
    """
    controls = list(Control)
    for uplink, direction, family in variations(n):
        for control in controls:
            for kind in Kind:
                yield Case(kind, control, uplink, direction, family)
        controls.reverse()  # the application is stopped or started once in a round, not twice


def losses_beside(n: int, live: int) -> Iterator[Case]:
    """Yield ``n`` losses of a wire, with ``live`` idle connections beside the fast one."""
    for uplink, direction, family in variations(n):
        yield Case(Kind.WIRE, Control.APPLICATION, uplink, direction, family, live)
