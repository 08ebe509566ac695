"""Sets a host up as a site, and takes that down again.

Every part is compared with the plan first and only what differs is changed, so that a first set-up,
a repeated one, the rest of an interrupted one and a changed federation file are the same code.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyroute2.netlink.exceptions import NetlinkError

from fedsdn import namespace
from fedsdn.config.model import Federation
from fedsdn.errors import FedsdnError
from fedsdn.mptcp.endpoints import Endpoints
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.site import checks, database, firewall, links, ports, record
from fedsdn.site.database import Database
from fedsdn.site.network import Network
from fedsdn.site.plan import SitePlan, site_plan
from fedsdn.site.sysctls import Sysctl


def up(federation: Federation, site_name: str, warn: Callable[[str], None]) -> tuple[str, ...]:
    """Set this host up as a site, and name the parts that had to change.

    ``warn`` is told what the operator ought to know before anything changes.

    A first set-up that fails leaves nothing behind. One that fails on a host that was set up
    before leaves what was there, partly changed; the next ``up`` goes on from there.

    Raises:
        FedsdnError: the host cannot be set up as this site.

    """
    site = federation.local_site(site_name)
    with _alone():
        there = checks.check_host(site)
        for warning in checks.warnings(site, there):
            warn(warning)
        plan = site_plan(federation, site, there.facts(site.provider_network.bridge))
        fresh = record.read() is None
        try:
            return tuple(part for part, changed in _apply(plan, there) if changed)
        except BaseException:
            if fresh:
                _remove_all()
            raise


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
    with _alone():
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
    for name in sorted(names):
        changed |= links.delete_host_veth(name)
    if recorded:
        namespace.delete(PROXY_NAMESPACE)
    return Removed(record.remove() or changed, handed_over)


@contextmanager
def _alone() -> Iterator[None]:
    """Keep a second ``up`` or ``down`` from running on this host at the same time.

    The name is an abstract one (unix(7)): it belongs to the host's network namespace, and is gone
    with the process however that ends.
    """
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind("\0fedsdn-site")
        except OSError as error:
            raise FedsdnError(
                "another 'fedsdn site up' or 'fedsdn site down' runs on this host: "
                "wait until it has ended"
            ) from error
        yield


def _apply(plan: SitePlan, there: Database) -> Iterator[tuple[str, bool]]:
    """Make the plan true part by part, and say of each part whether it had to change."""
    yield _step("record", lambda: record.write(plan.site, plan.bridge, plan.uplink_ports))
    yield _step("namespace", lambda: namespace.create(plan.namespace))
    yield _step("sysctls", lambda: _write(plan.namespace, plan.sysctls))
    yield _step("packet filter", lambda: firewall.apply(plan.namespace, plan.ruleset))
    with Network(plan.namespace) as inside:
        if ports.release(inside.to_be_made_anew(plan.veths), there):
            there = database.read()
        yield _step("interfaces", lambda: inside.apply_interfaces(plan.veths, plan.held))
        yield _step("interfaces' sysctls", lambda: _write(plan.namespace, plan.port_sysctls))
        yield _step("addresses", lambda: inside.apply_addresses(plan.addresses))
        yield _step("routes", lambda: inside.apply_routes(plan.routes))
        yield _step("rules", lambda: inside.apply_rules(plan.rules))
        yield _step("neighbours", inside.remove_neighbours)
    with Endpoints(plan.namespace) as endpoints:
        yield _step("MPTCP endpoints", lambda: endpoints.apply(plan.endpoints))
    yield _step("ports", lambda: ports.apply(plan, there))
    record.let_steer()


def _step(part: str, work: Callable[[], bool]) -> tuple[str, bool]:
    try:
        return part, work()
    except (NetlinkError, OSError) as error:
        raise FedsdnError(f"the site's {part} cannot be set up: {error}") from error


def _write(name: str, settings: Iterable[Sysctl]) -> bool:
    def write() -> bool:
        return any([_write_one(setting) for setting in settings])  # noqa: C419  (every one)

    return namespace.inside(name, write)


def _write_one(setting: Sysctl) -> bool:
    there = setting.read()
    if there == setting.value or (there is None and setting.optional):
        return False
    if there is None:
        raise FedsdnError(f"this kernel has no {setting.name}: fedsdn needs Linux 6.1 or newer")
    try:
        setting.path.write_text(setting.value)
    except OSError as error:
        raise FedsdnError(f"the kernel refuses {setting} (is {there}): {error.strerror}") from error
    return True


def _check_no_process() -> None:
    running = [f"{pid} ({command})" for pid, command in namespace.processes(PROXY_NAMESPACE)]
    if running:
        raise FedsdnError(
            f"processes still run in network namespace {PROXY_NAMESPACE}: {', '.join(running)}; "
            "stop the proxy first"
        )
