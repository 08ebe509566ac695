"""Who makes the integration bridge of a site's VMs: by the topology's key ``integration``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from fedsdn.config.model import Federation
from fedsdn.lab import neutron, ovn
from fedsdn.lab.host import Host
from fedsdn.lab.topology import LabSite


class Start(Protocol):
    """Puts a site's VMs, those of others' networks too, behind the provider bridge.

    That one is there, and so are the VMs, whose cables end at interfaces of their names; the site
    is not up.
    """

    def __call__(self, host: Host, federation: Federation, lab: LabSite, *, system: bool) -> None:
        """Return when every VM has its network.

        Raises:
            FedsdnError: something is not installed, or does not start.

        """


@dataclass(frozen=True, slots=True)
class Integration:
    """A kind of integration bridge, and the names of the daemons that it needs on the host."""

    start: Start
    daemons: tuple[str, ...]


_KINDS: Mapping[str, Integration] = {
    "neutron": Integration(neutron.start, (neutron.AGENT,)),
    "neutron-dvr": Integration(partial(neutron.start, distributed=True), (neutron.AGENT,)),
    "ovn": Integration(ovn.start, (ovn.NORTHD, ovn.CONTROLLER)),
}


def start(host: Host, federation: Federation, lab: LabSite, *, system: bool) -> None:
    """Make the site's integration bridge.

    Raises:
        FedsdnError: as ``Start``.

    """
    if lab.integration is not None:
        _KINDS[lab.integration].start(host, federation, lab, system=system)


def daemons(lab: LabSite) -> tuple[str, ...]:
    """Return the names of a site's further daemons."""
    return () if lab.integration is None else _KINDS[lab.integration].daemons
