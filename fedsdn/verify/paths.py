"""The ways from VMs of one site to VMs of another, in each family."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from fedsdn.config.decision import Decision, Question, decide
from fedsdn.config.model import Address, Family
from fedsdn.traffic.runner import PORT, Transfer
from fedsdn.traffic.values import Amount
from fedsdn.verify import site as site_checks
from fedsdn.verify.view import SiteView, Vm

CONNECTS = "connects"
CLOSED_PORT = PORT + 1
TESTED_PORTS = range(PORT, CLOSED_PORT + 1)
PROHIBITED = {4: errno.EHOSTUNREACH, 6: errno.EACCES}
"""What a program is told where it is administratively prohibited (ICMP, ICMPv6)."""
PREREQUISITES = (
    site_checks.SiteCheck.PORTS,
    site_checks.SiteCheck.FLOWS,
    site_checks.SiteCheck.ADDRESSES,
    site_checks.SiteCheck.MPTCP,
    site_checks.SiteCheck.LISTENING,
)


@dataclass(frozen=True, slots=True)
class VmPath:
    """From a VM of one site to a VM of another, in one family."""

    near: SiteView
    far: SiteView
    near_vm: Vm
    far_vm: Vm
    source: Address
    destination: Address

    @property
    def family(self) -> Family:
        """4 or 6."""
        return self.destination.version

    @property
    def section(self) -> str:
        """Section of the report."""
        return f"{self.near.name} → {self.far.name}, IPv{self.family}"

    @property
    def connects(self) -> str:
        """Title of the check without which all others of this path would fail."""
        return f"{self.section}: {CONNECTS}"

    def prerequisites(self) -> tuple[str, ...]:
        """Titles of the sites' checks that everything here needs."""
        sites = (self.near, self.far)
        return tuple(site_checks.title(site, name) for site in sites for name in PREREQUISITES)

    @property
    def ask_proxies(self) -> str:
        """What a person types to see what both proxies refused or lost."""
        command = "fedsdn proxy stats"
        return "; ".join(view.shell.by_hand(command) for view in (self.near, self.far))

    def back(self) -> VmPath:
        """Return the same way from the far VM to the near one."""
        return VmPath(self.far, self.near, self.far_vm, self.near_vm, self.destination, self.source)

    @property
    def shown_source(self) -> Address | None:
        """What the far VM sees instead of the near one's address; None if it sees that."""
        if self.far.federation.source_restore(self.far.name, self.near.site) != "none":
            return None
        return next(
            prefix.proxy_address
            for prefix in self.far.site.prefixes
            if self.destination in prefix.network
        )

    def forbidden(self) -> tuple[int, Decision] | None:
        """Return a port of those that are tested and what the file says of it, if it is refused."""
        for port in TESTED_PORTS:
            decision = decide(self.near.federation, Question(self.source, self.destination, port))
            if not decision.allowed:
                return port, decision
        return None

    def transfer(self, amount: Amount, connections: int = 1) -> Transfer:
        """Return an upload along this path."""
        return Transfer(self.destination, amount, connections=connections)


def paths(views: Sequence[SiteView]) -> list[VmPath]:
    """Every direction and family between the first VMs of each two sites."""
    found = []
    families: tuple[Family, ...] = (4, 6)
    for near, far in permutations((view for view in views if view.vms), 2):
        for family in families:
            near_vm, far_vm = near.vms[0], far.vms[0]
            source, destination = near_vm.address(family), far_vm.address(family)
            if source and destination:
                found.append(VmPath(near, far, near_vm, far_vm, source, destination))
    return found
