"""Compares what is on a host with the plan of its site."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fedsdn import namespace
from fedsdn.config.model import Federation, Site
from fedsdn.mptcp.endpoints import Endpoint, Endpoints, endpoint_of
from fedsdn.site import checks, database, firewall, record
from fedsdn.site.database import Database
from fedsdn.site.network import Network
from fedsdn.site.nft import TABLE
from fedsdn.site.plan import SitePlan, site_plan
from fedsdn.site.sysctls import Sysctl
from fedsdn.uplinks.status import read_status


@dataclass(frozen=True, slots=True)
class Item:
    """One thing of a site: wanted by the plan, there on the host, or both.

    ``found`` is what is there in place of a wanted setting, ``meaning`` what the thing is for.
    """

    part: str
    text: str
    wanted: bool
    there: bool
    found: str | None = None
    meaning: str = ""

    @property
    def ok(self) -> bool:
        """Whether host and plan agree."""
        return self.wanted == self.there


def compare(federation: Federation, site_name: str) -> list[Item]:
    """List everything that the site is to have, and whatever else is in its place.

    Raises:
        FedsdnError: not root, or Open vSwitch does not answer.

    """
    checks.check_root()
    site = federation.local_site(site_name)
    there = database.read()
    bridge = site.provider_network.bridge
    facts = there.facts(bridge) if bridge in there.bridges else None
    plan = site_plan(federation, site, facts)
    return [*_record(plan), *_bridge(plan, there), *_namespace(plan, site)]


def _record(plan: SitePlan) -> Iterator[Item]:
    recorded = record.read()
    text = f"{record.RECORD}: site {plan.site}"
    yield Item("record", text, wanted=True, there=recorded == plan.site, found=recorded)
    exists = namespace.exists(plan.namespace)
    yield Item("namespace", plan.namespace, wanted=True, there=exists)


def _bridge(plan: SitePlan, there: Database) -> Iterator[Item]:
    present = {port.port for port in there.own_ports if port.bridge == plan.bridge}
    yield from _both(f"port of {plan.bridge}", plan.ports, present)
    reserved = {
        name for name, port in there.vlans.items() if port.bridge == plan.bridge and port.reserved
    }
    yield from _both(f"uplink of {plan.bridge} kept from NORMAL", plan.uplink_ports, reserved)


def _namespace(plan: SitePlan, site: Site) -> Iterator[Item]:
    if not namespace.exists(plan.namespace):
        return
    with Network(plan.namespace) as network:
        yield from _both("interface", (*plan.veths, plan.held, *plan.tunnels), network.interfaces())
        yield from _both("address", plan.addresses, network.addresses())
        yield from _both("route", plan.routes, network.routes(plan.routes))
        yield from _both("rule", plan.rules, network.rules())
        yield from _both("neighbour", plan.neighbours, network.neighbours(plan.neighbours))
    with Endpoints(plan.namespace) as endpoints:
        dead = _dead_endpoints(site)
        wanted = (endpoint for endpoint in plan.endpoints if endpoint not in dead)
        yield from _both("MPTCP endpoint", wanted, endpoints.read().keys() - dead)
    same = firewall.read(plan.namespace) == firewall.listing(plan.ruleset)
    found = None if same else f"another: see 'ip netns exec {plan.namespace} nft list ruleset'"
    yield Item("packet filter", f"table {TABLE}", True, same, found=found)
    for setting in (*plan.sysctls, *plan.port_sysctls):
        yield _sysctl(plan, setting)


def _dead_endpoints(site: Site) -> frozenset[Endpoint]:
    """Return the endpoints of uplinks that the application has found dead."""
    status = read_status()
    dead = frozenset() if status is None else status.dead
    return frozenset(endpoint_of(uplink) for uplink in site.uplinks if uplink.name in dead)


def _sysctl(plan: SitePlan, setting: Sysctl) -> Item:
    value = namespace.inside(plan.namespace, setting.read)
    same = value == setting.value or (value is None and setting.optional)
    found = "not in this kernel" if value is None else value
    return Item("sysctl", str(setting), True, same, found=found, meaning=setting.meaning)


def _both(part: str, wanted: Iterable[object], there: Iterable[object]) -> Iterator[Item]:
    """List the wanted things in their order, then those that are there without being wanted."""
    planned, present = list(wanted), set(there)
    for thing in planned:
        yield Item(part, str(thing), wanted=True, there=thing in present)
    for thing in sorted(present - set(planned), key=str):
        yield Item(part, str(thing), wanted=False, there=True)
