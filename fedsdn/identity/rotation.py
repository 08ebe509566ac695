"""One identity replaced by another, while the site's connections go on.

A site presents the first identity that its federation file lists and its host has, and accepts of
a peer whatever the file lists. So all files list both first; then the site's own leaves the old
one out, and from then on it presents the new one, which all accept; then the others do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedsdn.config.model import Identity, Site
from fedsdn.errors import FinalError
from fedsdn.identity.dates import begin
from fedsdn.identity.new import make
from fedsdn.identity.store import OwnIdentity, current, load, save


def rotate(site: Site, directory: Path) -> tuple[Identity, Identity]:
    """Make the identity that is to replace the one in force; return both, the old one first.

    One that was made before, and is not in the file yet, is taken instead of another.

    Raises:
        FinalError: none is in force, the last rotation has not ended, or nothing can be written.

    """
    own = load(directory)
    old = current(site, own).identity
    if len(site.identities) > 1:
        names = " and ".join(one.name for one in site.identities)
        raise FinalError(
            f"the federation file lists two identities of site {site.name}, {names}: end that "
            "rotation first, leave one of them in every site's file, this site's first"
        )
    ready = waiting(site, own)
    return old, ready[-1] if ready else save(directory, make(site.name)).identity


def waiting(site: Site, own: Sequence[OwnIdentity]) -> list[Identity]:
    """Return what this host has for the time after those that the file lists, oldest first."""
    newest = max(map(begin, site.identities))
    return [one for one in _unlisted(site, own) if begin(one) >= newest]


def retired(site: Site, own: Sequence[OwnIdentity]) -> list[Identity]:
    """Return what this host still has of identities that the file lists no more."""
    oldest = min(map(begin, site.identities))
    return [one for one in _unlisted(site, own) if begin(one) < oldest]


def _unlisted(site: Site, own: Sequence[OwnIdentity]) -> list[Identity]:
    every = (one.identity for one in own if one.identity not in site.identities)
    return sorted(every, key=begin)
