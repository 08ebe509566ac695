"""Whether a site is who it is said to be: its keys, its place in the federation file, its dates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from fedsdn.config.model import Federation, Identity, Site
from fedsdn.errors import FinalError
from fedsdn.identity import dates
from fedsdn.identity.rotation import broken
from fedsdn.identity.store import OwnIdentity, check_way, current, load
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
    name = one.identity.name
    if now < dates.begin(one.identity):
        raise CheckFailedError(f"{name} {dates.problem(one.identity, now)}", "timedatectl")
    _checked(one.try_keys)
    _checked(partial(check_way, view.directory))
    problem = dates.problem(one.identity, now)
    following = _following(view.site, own, one, now)
    if problem and (following is None or now > dates.end(one.identity)):
        fix = _ROTATE if following is None else f"take {name} out of the federation file"
        raise CheckFailedError(f"{name} {problem}", fix)
    text = f"{name} until {dates.day(dates.end(one.identity))}"
    return text if following is None else f"{text}, then {following.name}"


def _following(
    site: Site, own: Sequence[OwnIdentity], one: OwnIdentity, now: datetime
) -> Identity | None:
    """Return what is listed beside the identity in force, is here, and may replace it."""
    others = (each for each in own if each.identity in site.identities and each != one)
    good = (each.identity for each in others if not broken(each, now))
    return next((each for each in good if not dates.problem(each, now)), None)


def others(view: IdentityView) -> str:
    """Say what else this host has.

    Whether that is to come or was is in no file: dates are of clocks that may have been wrong.
    """
    unlisted = (one.identity for one in view.own() if one.identity not in view.site.identities)
    return "; ".join(_unlisted(one, view.federation) for one in unlisted) or "none"


def _unlisted(one: Identity, federation: Federation) -> str:
    site = federation.site_with_fingerprint(one.fingerprint)
    if site is not None:
        return f"{one.name} is in the federation file, as site {site.name}'s"
    return f"{one.name}, of {dates.day(dates.begin(one))}, is not in the federation file"


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


def _checked(look: Callable[[], T]) -> T:
    try:
        return look()
    except FinalError as error:
        found, _, fix = str(error).rpartition(": ")
        raise CheckFailedError(found, fix) from error
