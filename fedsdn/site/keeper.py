"""Puts back what others change in the proxy's namespace, by the plan that ``up`` has made true.

Endpoints are not among it: the uplinks' monitor keeps them, and takes those of dead uplinks away.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

from fedsdn import namespace
from fedsdn.config.model import Federation, Site
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.on_link import neighbours
from fedsdn.site import record, setup, uplink_mtus
from fedsdn.site.changes import Changes
from fedsdn.site.open_sysctls import OpenSysctls
from fedsdn.site.plan import SitePlan, port_names, settings, site_plan
from fedsdn.site.setup import Part
from fedsdn.site.sysctls import Sysctl, namespace_sysctls

KEPT = frozenset(Part) - {Part.RECORD, Part.NAMESPACE, Part.ENDPOINTS, Part.PORTS}
"""What is looked at when it is not known what has changed."""

_SETTINGS = frozenset({Part.SYSCTLS, Part.PORT_SYSCTLS})

_OF_SETTINGS = _SETTINGS | {Part.INTERFACES}
"""A setting that differs may be one of an interface that is gone, of which nothing is heard yet."""

_OF_MTU = frozenset({Part.INTERFACES, Part.ROUTES})
"""What depends on an uplink's MTU."""

_ANOTHER_PLAN_SECONDS = 5.0
"""For so long the application may not have taken up yet the file by which ``up`` has just run."""


_Kept = tuple[tuple[str, ...], frozenset[bytes]]
"""Names of wires and of uplinks' ports, and addresses of neighbours that are entered for good."""


def _kept(federation: Federation, site: Site) -> _Kept:
    addresses = (one.address.packed for one in neighbours(federation, site))
    ports = (uplink.port for uplink in site.uplinks)
    return (*port_names(site), *ports), frozenset(addresses)


class _Watched:
    """What is open in a namespace."""

    def __init__(self, name: str, settings: Iterable[Sysctl]) -> None:
        self._name = name
        self.changes = Changes(name)
        try:
            self.settings = OpenSysctls(name, settings)
        except BaseException:
            self.changes.close()
            raise

    def open_settings(self, settings: Iterable[Sysctl]) -> None:
        self.settings.close()
        self.settings = OpenSysctls(self._name, settings)

    def close(self) -> None:
        self.settings.close()
        self.changes.close()


class Keeper:
    """The namespace of one site; for one thread."""

    def __init__(self, name: str, site: str) -> None:
        """Prepare for the namespace called ``name``."""
        self._name = name
        self._site = site
        self._identity: int | None = None
        self._watched: _Watched | None = None
        self._due: frozenset[Part] = frozenset()
        self.looked_at: frozenset[Part] = frozenset()
        """The parts that the last ``look`` found as they are to be, or put back."""
        self.followed = False
        """Whether it has given interfaces other MTUs, because an uplink has another."""
        self._federation: Federation | None = None
        self._plan: SitePlan | None = None
        self._kept: _Kept = (), frozenset()
        self._later: frozenset[Part] = frozenset()
        """What the next look is to look at again."""
        self._another_since: float | None = None

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Those that are readable when it is worth while to look; none without a namespace."""
        return () if self._watched is None else self._watched.changes.sockets

    def look(self, federation: Federation) -> tuple[Part, ...]:
        """Look for changes, and name the parts that were put back.

        Raises:
            FedsdnError: something cannot be put back.

        """
        try:
            return self._look(federation)
        except namespace.MissingNamespaceError:  # said where endpoints are kept
            self._close()
            return ()
        except OSError as error:
            self._close()
            raise FedsdnError(f"namespace {self._name} cannot be watched: {error}") from error

    def _look(self, federation: Federation) -> tuple[Part, ...]:
        self.looked_at, self.followed = frozenset(), False
        watched = self._watch(federation)
        if watched is None:
            return ()
        self._due |= watched.changes.read(*self._kept)
        if watched.settings.differ():
            self._due |= _OF_SETTINGS
        if not self._due:
            return ()
        changed = self._put_back(federation)
        if changed is None:
            return ()
        if self._due & _SETTINGS:  # interfaces may have been made anew
            watched.open_settings(self._sysctls(federation))
        self.looked_at, self._due = self._due, self._later
        return changed

    def _watch(self, federation: Federation) -> _Watched | None:
        """Watch the namespace that has the name now; None if there is none."""
        identity = namespace.identity(self._name)
        if identity != self._identity:
            self._close()  # an open socket keeps a removed namespace alive
        if identity is None:
            return None
        if self._watched is None:
            self._watched = _Watched(self._name, self._sysctls(federation))
            self._due = KEPT
        elif federation is not self._federation:
            self._watched.open_settings(self._sysctls(federation))
        if federation is not self._federation:
            self._federation, self._plan = federation, None
            self._kept = _kept(federation, federation.site(self._site))
        self._identity = identity
        return self._watched

    def _sysctls(self, federation: Federation) -> tuple[Sysctl, ...]:
        site = federation.site(self._site)
        ports = federation.proxy_port, federation.datagrams_port
        return (*namespace_sysctls(*ports), *settings(federation, site))

    def _close(self) -> None:
        if self._watched is not None:
            self._watched.close()
        self._watched = self._identity = None

    def _put_back(self, federation: Federation) -> tuple[Part, ...] | None:
        known = record.applied()
        if known is None:
            return None
        facts, _ = known
        site = federation.site(self._site)
        if self._plan is None or self._plan.facts != facts:
            self._plan = site_plan(federation, site, facts)
        follow = None
        self._later = frozenset()
        if Part.INTERFACES in self._due:
            found = uplink_mtus.now(site, facts)
            if found is None:
                self._later = _OF_MTU
            elif found != facts:
                follow = site_plan(federation, site, found)
        try:
            changed = setup.put_back(self._plan, self._due, follow)
        except setup.AnotherPlanError:
            if self._is_another_for_long():
                raise
            return None
        except FedsdnError:
            self._due = KEPT | {Part.PORTS}
            raise
        self._another_since = None
        self.followed = follow is not None
        return changed

    def _is_another_for_long(self) -> bool:
        now = time.monotonic()
        if self._another_since is None:
            self._another_since = now
        return now - self._another_since > _ANOTHER_PLAN_SECONDS
