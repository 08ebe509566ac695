"""Sets a host up as a site, and takes that down again.

Every part is compared with the plan first and only what differs is changed, so that a first set-up,
a repeated one, the rest of an interrupted one and a changed federation file are the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pyroute2.ethtool.ioctl import EthtoolError
from pyroute2.netlink.exceptions import NetlinkError

from fedsdn import namespace
from fedsdn.config.model import Federation
from fedsdn.errors import FedsdnError
from fedsdn.mptcp.endpoints import Endpoints
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.site import checks, database, firewall, links, locks, ports, record, tunnel_links
from fedsdn.site.network import Network
from fedsdn.site.plan import SitePlan, site_plan
from fedsdn.site.sysctls import Sysctl

_COMMAND_SECONDS = 2.0
"""How long a command of the application's or an operator's, as ``wg show``, may take to end."""

Work = Callable[[], bool]
"""Makes a part as it is to be, and says whether it had to change."""


class Part(StrEnum):
    """What a site consists of, in the order in which it is made."""

    RECORD = "record"
    NAMESPACE = "namespace"
    SYSCTLS = "sysctls"
    FILTER = "packet filter"
    INTERFACES = "interfaces"
    PORT_SYSCTLS = "interfaces' sysctls"
    ADDRESSES = "addresses"
    ROUTES = "routes"
    RULES = "rules"
    NEIGHBOURS = "neighbours"
    ENDPOINTS = "MPTCP endpoints"
    PORTS = "ports"


_OF_NETWORK = frozenset(
    {Part.INTERFACES, Part.PORT_SYSCTLS, Part.ADDRESSES, Part.ROUTES, Part.RULES, Part.NEIGHBOURS}
)


class AnotherPlanError(FedsdnError):
    """What the host has is not what is to be put back."""


def up(federation: Federation, site_name: str, warn: Callable[[str], None]) -> tuple[str, ...]:
    """Set this host up as a site, and name the parts that had to change.

    ``warn`` is told what the operator ought to know before anything changes.

    A first set-up that fails leaves nothing behind. One that fails on a host that was set up
    before leaves what was there, partly changed; the next ``up`` goes on from there.

    Raises:
        FedsdnError: the host cannot be set up as this site.

    """
    site = federation.local_site(site_name)
    with locks.commanding():
        there = checks.check_host(site)
        checks.check_tunnels(federation, site)
        for warning in checks.warnings(site, there):
            warn(warning)
        plan = site_plan(federation, site, there.facts(site.provider_network.bridge))
        fresh = record.read() is None
        try:
            changed = _apply(plan, frozenset(Part), alone=True)
        except BaseException:
            if fresh:
                _remove_all()
            raise
        record.let_steer()
        return changed


def prepare() -> None:
    """Make the namespace that ``up`` takes, if that has not the host's mounts and this has.

    Raises:
        FedsdnError: not root, another command runs, or it cannot be made.

    """
    checks.check_root()
    with locks.commanding():
        namespace.prepare(PROXY_NAMESPACE)


def forget() -> None:
    """Remove what is left of the namespace behind a ``down`` that had not the host's mounts.

    Raises:
        FedsdnError: not root, or another command runs.

    """
    checks.check_root()
    with locks.commanding():
        if record.read() is None:
            namespace.delete(PROXY_NAMESPACE)


@dataclass(frozen=True, slots=True)
class Removed:
    """What ``down`` did: whether there was anything to remove.

    ``handed_over`` are bridges that forwarded by fedsdn's table-miss flow alone, and have an
    ordinary one now.
    """

    anything: bool
    handed_over: tuple[str, ...]


def down(site_name: str | None = None) -> Removed:
    """Remove all that ``up`` made, of whatever site.

    What else a bridge forwards it forwards as before.

    With ``site_name``, only if the host was set up as that site.

    Raises:
        FedsdnError: not root, another site, a process still runs in the namespace, or Open
            vSwitch does not answer.

    """
    checks.check_root()
    with locks.commanding():
        if site_name is not None:
            checks.check_record(site_name)
        return _remove_all()


def _remove_all() -> Removed:
    there = database.read()
    recorded = record.read() is not None
    names = {port.port.name for port in there.own_ports}
    if recorded:
        _check_no_process()
        names |= links.wired_links(PROXY_NAMESPACE)
    record.stop_steering()
    handed_over = ports.hand_over(there, record.uplinks())
    changed = ports.remove(there)
    if recorded:
        tunnel_links.end(PROXY_NAMESPACE)
    for name in sorted(names):
        changed |= links.delete_host_veth(name)
    if recorded:
        namespace.delete(PROXY_NAMESPACE)
    else:
        namespace.forget(PROXY_NAMESPACE)
    return Removed(record.remove() or changed, handed_over)


def put_back(
    plan: SitePlan, parts: Collection[Part], follow: SitePlan | None = None
) -> tuple[Part, ...] | None:
    """Make parts of a set-up host as ``plan`` has them, and name those that had to change.

    ``follow`` is the plan from now on, where other facts of the bridge have changed interfaces.

    None: an operator sets the host up or takes it down at the moment, or it is not set up.

    Raises:
        AnotherPlanError: the host was set up by another plan.
        FedsdnError: the kernel or Open vSwitch refuses.

    """
    with locks.putting_back() as alone, record.steering(plan.site, plan.bridge) as allowed:
        if not (alone and allowed and namespace.exists(plan.namespace)):
            return None
        if record.applied() != (plan.facts, plan.digest):
            raise AnotherPlanError(
                "this host was set up by another federation file, or version of fedsdn, than the "
                "application has: what others change there is not put back; run 'fedsdn site up'"
            )
        if follow is not None:
            record.write(follow)
        return _apply(follow or plan, parts, alone=False)


def _apply(plan: SitePlan, parts: Collection[Part], *, alone: bool) -> tuple[Part, ...]:
    """Make parts of the plan true one by one, and name those that had to change.

    Others' tables in the packet filter stay unless ours is to be ``alone``.
    """
    return tuple(part for part, changed in _applied(plan, parts, alone=alone) if changed)


def _applied(
    plan: SitePlan, parts: Collection[Part], *, alone: bool
) -> Iterator[tuple[Part, bool]]:
    first = {
        Part.RECORD: lambda: record.write(plan),
        Part.NAMESPACE: lambda: namespace.create(plan.namespace),
        Part.SYSCTLS: lambda: _write(plan.namespace, plan.sysctls),
        Part.FILTER: lambda: firewall.apply(plan.namespace, plan.ruleset, alone=alone),
    }
    last = {
        Part.ENDPOINTS: lambda: _endpoints(plan),
        Part.PORTS: lambda: ports.apply(plan, database.read()),
    }
    released = False
    yield from _steps(first, parts)
    if _OF_NETWORK & set(parts):
        with Network(plan.namespace) as inside:
            released = Part.INTERFACES in parts and _step(
                Part.INTERFACES, lambda: _release(inside, plan)
            )
            yield from _steps(_network(plan, inside), parts)
    yield from _steps(last, {*parts, Part.PORTS} if released else parts)


def _network(plan: SitePlan, inside: Network) -> dict[Part, Work]:
    return {
        Part.INTERFACES: lambda: inside.apply_interfaces(plan.veths, plan.held, plan.tunnels),
        Part.PORT_SYSCTLS: lambda: _write(plan.namespace, plan.port_sysctls),
        Part.ADDRESSES: lambda: inside.apply_addresses(plan.addresses),
        Part.ROUTES: lambda: inside.apply_routes(plan.routes),
        Part.RULES: lambda: inside.apply_rules(plan.rules),
        Part.NEIGHBOURS: lambda: inside.apply_neighbours(plan.neighbours),
    }


def _release(inside: Network, plan: SitePlan) -> bool:
    anew = inside.to_be_made_anew(plan.veths)
    return bool(anew) and ports.release(anew, database.read())


def _endpoints(plan: SitePlan) -> bool:
    with Endpoints(plan.namespace) as endpoints:
        return endpoints.apply(plan.endpoints)


def _steps(steps: Mapping[Part, Work], parts: Collection[Part]) -> Iterator[tuple[Part, bool]]:
    for part, work in steps.items():
        if part in parts:
            yield part, _step(part, work)


def _step(part: Part, work: Work) -> bool:
    try:
        return work()
    except (NetlinkError, OSError) as error:
        raise FedsdnError(f"the site's {part} cannot be set up: {error}") from error
    except (LookupError, EthtoolError) as error:
        raise FedsdnError(
            f"the site's {part} cannot be set up: {error} has gone meanwhile; try again"
        ) from error


def _write(name: str, settings: Iterable[Sysctl]) -> bool:
    def write() -> bool:
        return any([setting.write() for setting in settings])  # noqa: C419  (every one)

    return namespace.inside(name, write)


def _check_no_process() -> None:
    has_proxy = locks.is_locked(record.PROXY_LOCK)  # which has rights that the site's unit has not
    deadline = time.monotonic() + _COMMAND_SECONDS
    while (running := _running()) and not has_proxy and time.monotonic() < deadline:
        time.sleep(0.05)
    if has_proxy and not running:
        running = ["the proxy"]
    if running:
        raise FedsdnError(
            f"processes still run in network namespace {PROXY_NAMESPACE}: {', '.join(running)}; "
            "stop the proxy first"
        )


def _running() -> list[str]:
    """Name the processes in the namespace that are not there for a tunnel."""
    ours = tunnel_links.processes()
    return [
        f"{pid} ({command})"
        for pid, command in namespace.processes(PROXY_NAMESPACE)
        if pid not in ours
    ]
