"""What the checks know of a site: what the federation file says, and where to run commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

from fedsdn.config.local import DEFAULT_CONFIG_FILE, IDENTITY_DIRECTORY
from fedsdn.config.model import Address, Family, Federation, Site, Uplink
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.shell import Shell
from fedsdn.verify.identity import IdentityView


@dataclass(frozen=True, slots=True)
class Vm:
    """A virtual machine in which the test program may run."""

    name: str
    shell: Shell
    addresses: tuple[Address, ...]

    def address(self, family: Family) -> Address | None:
        """Its address of a family, None if it has none."""
        of_family = (address for address in self.addresses if address.version == family)
        return next(of_family, None)


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site that is checked.

    ``config_file`` is the host's own settings, and ``options`` what names them to a command where
    it would not find them by itself. ``vms`` is empty where we are not to send traffic.
    ``identity`` is the directory of the site's private keys.
    """

    federation: Federation
    site: Site
    shell: Shell
    config_file: PurePath
    options: tuple[str, ...] = ()
    vms: tuple[Vm, ...] = ()
    identity: Path = DEFAULT_CONFIG_FILE.parent / IDENTITY_DIRECTORY

    @property
    def identity_view(self) -> IdentityView:
        """The site's identity, where its private keys are on this host."""
        return IdentityView(self.federation, self.site, self.identity)

    @property
    def name(self) -> str:
        """The site's name."""
        return self.site.name

    @property
    def bridge(self) -> str:
        """Name of the provider bridge."""
        return self.site.provider_network.bridge

    @property
    def fedsdn(self) -> tuple[str, ...]:
        """The fedsdn command, wherever PATH leads."""
        return self.shell.module("fedsdn.cli.main")

    @property
    def set_up(self) -> str:
        """What a person types to set the site up."""
        return self.shell.by_hand(" ".join(("fedsdn site up", *self.options)))

    @property
    def start_application(self) -> str:
        """What a person types to start the application."""
        return self.shell.by_hand(f"osken-manager --config-file {self.config_file} fedsdn.app")

    @property
    def start_proxy(self) -> str:
        """What a person types to start the proxy."""
        return self.shell.by_hand(" ".join(("fedsdn proxy run", *self.options)))

    @property
    def proxy(self) -> Shell:
        """The proxy's network namespace."""
        return self.shell.inside(PROXY_NAMESPACE)


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
