"""One identity replaced by another, while the site's connections go on.

A site presents the first identity that its federation file lists and its host has, and accepts of
a peer whatever the file lists. So all files list both first; then the site's own leaves the old
one out, and from then on it presents the new one, which all accept; then the others do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedsdn.config.model import Identity, Site
from fedsdn.errors import FinalError
from fedsdn.identity.dates import begin, day, end
from fedsdn.identity.new import make
from fedsdn.identity.store import OwnIdentity, current, load, save


@dataclass(frozen=True, slots=True)
class Rotation:
    """An identity and what is to replace it; ``broken`` says why the old one cannot be used."""

    old: Identity
    new: Identity
    broken: str

    @property
    def listed(self) -> tuple[Identity, ...]:
        """What the federation file is to have: both, if the old one can be used meanwhile."""
        return (self.new,) if self.broken else (self.old, self.new)


def rotate(site: Site, directory: Path) -> Rotation:
    """Make the identity that is to replace the one in force.

    It is always a new one: whoever has read the host's files has those that wait there, too.

    Raises:
        FinalError: the file lists none of this host, the last rotation has not ended, the clock is
            wrong, or nothing can be written.

    """
    own, now = load(directory), datetime.now(UTC)
    old = current(site, own)
    if now < begin(old.identity):
        raise FinalError(
            f"the clock says {day(now)}, but {old.identity.name}, in force, begins on "
            f"{day(begin(old.identity))}: set the clock (timedatectl)"
        )
    here = (one for one in own if one.identity in site.identities)
    good = [one.identity.name for one in here if not broken(one, now)]
    if good and len(site.identities) > 1:
        names = " and ".join(one.name for one in site.identities)
        raise FinalError(
            f"the federation file lists two identities of site {site.name}, {names}: end that "
            f"rotation first, take one of them out of every site's file so that {good[-1]} is "
            "left, at this site first"
        )
    return Rotation(old.identity, save(directory, make(site.name)).identity, broken(old, now))


def broken(own: OwnIdentity, now: datetime) -> str:
    """Say why an identity cannot be used; an empty string if it can."""
    if now > end(own.identity):
        return f"it has expired on {day(end(own.identity))}"
    try:
        own.try_keys()
    except FinalError as error:
        return str(error)
    return ""


def for_file(listed: Sequence[Identity], own: Sequence[OwnIdentity]) -> list[Identity]:
    """Return what the federation file is to have of this host's identities, one at least.

    That is what it has; of a host with which it has nothing in common, the newest.
    """
    here = [one.identity for one in own]
    return [one for one in listed if one in here] or [max(here, key=begin)]
