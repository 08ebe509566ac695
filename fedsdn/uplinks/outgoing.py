"""What a site's probes say: alike in all of its probes, in those of a round, and on one path."""

from __future__ import annotations

from dataclasses import dataclass

from fedsdn.config.model import Probes
from fedsdn.uplinks.path import Path
from fedsdn.uplinks.probe import Probe

Heard = tuple[int, int, int]
"""The epoch and number of a probe that was received, and how long ago, in µs."""

NOTHING_HEARD: Heard = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Sender:
    """What all probes of a site say alike, and how they are sent.

    ``epoch`` is drawn by lot when its application starts, ``file`` is the federation's digest.
    """

    site: str
    epoch: int
    file: str
    probes: Probes


@dataclass(frozen=True, slots=True)
class Said:
    """What the probes of a round say alike; ``interval`` is that to the next one, in seconds.

    The other fields are as in ``Probe``.
    """

    sender: Sender
    number: int
    interval: float
    wanted: bool
    down: tuple[str, ...]
    lost: tuple[tuple[str, str], ...]
    leaving: bool = False

    def over(self, path: Path, heard: Heard, asks: int = 0, answers: int = 0) -> Probe:
        """Return the probe for a path; ``heard`` is what it acknowledges."""
        epoch, number, ago = heard
        return Probe(
            site=self.sender.site,
            uplink=path.name.uplink,
            to=path.name.peer,
            to_uplink=path.name.peer_uplink,
            epoch=self.sender.epoch,
            number=self.number,
            heard_epoch=epoch,
            heard=number,
            heard_ago=ago,
            every=round(self.interval * 1e6),
            wanted=self.wanted,
            file=self.sender.file,
            down=self.down,
            lost=self.lost,
            leaving=self.leaving,
            asks=asks,
            answers=answers,
        )


def acknowledged(path: Path, now: float) -> Heard:
    """Return what the next probe over a path acknowledges.

    A greeting is of no round: it tells only of which epoch the peer was heard.
    """
    heard = path.heard
    if heard is None:
        return NOTHING_HEARD
    epoch, number = path.reception.newest
    return epoch, 0 if path.reception.greeted else number, round((now - heard) * 1e6)
