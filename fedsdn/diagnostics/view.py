"""What the checks know of a site: what the federation file says, and where to run commands."""

from __future__ import annotations

from dataclasses import dataclass

from fedsdn.config.model import Address, Family, Federation, Site, Uplink
from fedsdn.diagnostics.shell import Shell


@dataclass(frozen=True, slots=True)
class Vm:
    """A virtual machine in which the test application may run."""

    name: str
    shell: Shell
    addresses: tuple[Address, ...]

    def address(self, family: Family) -> Address | None:
        """Its address of a family, None if it has none."""
        of_family = (address for address in self.addresses if address.version == family)
        return next(of_family, None)


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site that is checked. ``vms`` is empty where we are not to send traffic of our own."""

    federation: Federation
    site: Site
    shell: Shell
    openflow_port: int
    vms: tuple[Vm, ...] = ()

    @property
    def name(self) -> str:
        """The site's name."""
        return self.site.name

    @property
    def bridge(self) -> str:
        """Name of the provider bridge."""
        return self.site.provider_network.bridge

    @property
    def proxy(self) -> Shell:
        """The proxy's network namespace."""
        return self.shell.inside(PROXY_NAMESPACE)


PROXY_NAMESPACE = "fedsdn"
"""Named network namespace of the proxy, under /run/netns."""


def uplink_pairs(near: Site, far: Site) -> tuple[tuple[Uplink, Uplink], ...]:
    """Pair uplinks of two sites one to one, as a set of wires that can all be full at once."""
    free = list(far.uplinks)
    pairs = []
    for uplink in near.uplinks:
        match = next((other for other in free if uplink.reaches(other)), None)
        if match is not None:
            free.remove(match)
            pairs.append((uplink, match))
    return tuple(pairs)
