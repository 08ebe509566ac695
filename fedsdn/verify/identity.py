"""Whether a site is who it is said to be: its keys, its place in the federation file, its dates."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from fedsdn.config.model import Federation, Site
from fedsdn.errors import FinalError
from fedsdn.identity import dates
from fedsdn.identity.rotation import retired, waiting
from fedsdn.identity.store import OwnIdentity, current, load
from fedsdn.verify.checks import CheckFailedError

T = TypeVar("T")

_MOST_NAMED = 5
_ROTATE = "fedsdn identity rotate"


@dataclass(frozen=True, slots=True)
class IdentityView:
    """A site, and the directory of its private keys on this host."""

    federation: Federation
    site: Site
    directory: Path

    def own(self) -> tuple[OwnIdentity, ...]:
        """Return what this host has.

        Raises:
            CheckFailedError: it cannot be taken.

        """
        return _checked(partial(load, self.directory))


def identity(view: IdentityView, now: datetime | None = None) -> str:
    """See that all is well, in one line.

    Raises:
        CheckFailedError: something is not.

    """
    now = now or datetime.now(UTC)
    return "; ".join((in_force(view, now), peers(view, now)))


def parts(view: IdentityView) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield what can be looked at: its name, and what says how it is, as ``identity``."""
    now = datetime.now(UTC)
    yield "in force", partial(in_force, view, now)
    yield "others here", partial(others, view)
    yield "peers", partial(peers, view, now)


def in_force(view: IdentityView, now: datetime) -> str:
    """See that the site has an identity, with good keys and dates.

    Raises:
        CheckFailedError: it is not so.

    """
    own = view.own()
    one = _checked(partial(current, view.site, own))
    _checked(partial(_try_keys, one))
    problem = dates.problem(one.identity, now)
    if problem:
        raise CheckFailedError(f"{one.identity.name} {problem}", _ROTATE)
    return f"{one.identity.name} until {dates.day(dates.end(one.identity))}"


def others(view: IdentityView) -> str:
    """Say what else this host has."""
    own = view.own()
    if not own or not view.site.identities:
        return "none"
    ready = [f"{one.name} is for the federation file" for one in waiting(view.site, own)]
    done = [
        f"{one.name} is in the federation file no more: rm {view.directory}/{one.name}*"
        for one in retired(view.site, own)
    ]
    return "; ".join((*ready, *done)) or "none"


def peers(view: IdentityView, now: datetime) -> str:
    """See that no peer's last identity is about to expire.

    Raises:
        CheckFailedError: some are.

    """
    ends = sorted(
        (dates.last_end(peer), peer.name)
        for peer in view.federation.peers(view.site.name)
        if peer.identities
    )
    if not ends:
        return "no peer has one"
    soon = [(end, name) for end, name in ends if end < now + dates.WARNED]
    if soon:
        raise CheckFailedError(_ending(soon, now), f"there: {_ROTATE}")
    return f"peers' until {dates.day(ends[0][0])} or later"


def _ending(soon: Sequence[tuple[datetime, str]], now: datetime) -> str:
    said = [
        f"site {name}'s {'has expired' if end < now else 'expires'} on {dates.day(end)}"
        for end, name in soon[:_MOST_NAMED]
    ]
    more = len(soon) - _MOST_NAMED
    return "; ".join([*said, f"{more} more"] if more > 0 else said)


def _try_keys(own: OwnIdentity) -> None:
    """Read both private keys as those do who need them.

    Raises:
        FinalError: one of them is not the identity's, or not private.

    """
    own.probes_key()
    certificate, key = own.tls_files()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise FinalError(
            f"{key}: found another key than the one of {certificate} ({error.strerror}): put it "
            f"back from a backup, or run '{_ROTATE}'"
        ) from error


def _checked(look: Callable[[], T]) -> T:
    try:
        return look()
    except FinalError as error:
        found, _, fix = str(error).rpartition(": ")
        raise CheckFailedError(found, fix) from error
