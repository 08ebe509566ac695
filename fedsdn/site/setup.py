"""Sets a host up as a site, and takes that down again.

Every part is compared with the plan first and only what differs is changed, so that a first set-up,
a repeated one, the rest of an interrupted one and a changed federation file are the same code.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyroute2.netlink.exceptions import NetlinkError

from fedsdn.config.model import Federation
from fedsdn.errors import FedsdnError
from fedsdn.site import checks, firewall, namespace, network, ovs, record
from fedsdn.site.network import Network
from fedsdn.site.ovs import Database
from fedsdn.site.plan import NAMESPACE, SitePlan, site_plan
from fedsdn.site.sysctls import Sysctl
from fedsdn.uplinks.endpoints import Endpoints


def up(federation: Federation, site_name: str, openflow_port: int) -> tuple[str, ...]:
    """Set this host up as a site, and name the parts that had to change.

    A first set-up that fails leaves nothing behind. One that fails on a host that was set up
    before leaves what was there, partly changed; the next ``up`` goes on from there.

    Raises:
        FedsdnError: the host cannot be set up as this site.

    """
    site = federation.site(site_name)
    there = checks.check_host(site)
    plan = site_plan(federation, site, openflow_port, there.facts(site.provider_network.bridge))
    fresh = record.read() is None
    try:
        return _apply(plan, there)
    except BaseException as error:
        if fresh:
            down()
        if isinstance(error, (NetlinkError, OSError)):
            raise FedsdnError(f"site {site_name} cannot be set up: {error}") from error
        raise


def down(site_name: str | None = None) -> bool:
    """Remove all that ``up`` made, of whatever site; say whether there was anything.

    With ``site_name``, only if the host was set up as that site.

    Raises:
        FedsdnError: not root, another site, a process still runs in the namespace, or Open
            vSwitch does not answer.

    """
    checks.check_root()
    if site_name is not None:
        checks.check_record(site_name)
    there = ovs.read()
    recorded = record.read() is not None
    if recorded:
        _check_no_process()
    names = {port.port.name for port in there.own_ports}
    if recorded:
        names |= network.wired_links(NAMESPACE)
    changed = ovs.remove(there)
    for name in sorted(names):
        changed |= network.delete_host_link(name)
    if recorded:
        namespace.delete(NAMESPACE)
    return record.remove() or changed


def _apply(plan: SitePlan, there: Database) -> tuple[str, ...]:
    changed = {"record": record.write(plan.site, plan.bridge)}
    changed["namespace"] = namespace.create(plan.namespace)
    changed["sysctls"] = _write(plan.namespace, plan.sysctls)
    changed["packet filter"] = firewall.apply(plan.namespace, plan.ruleset)
    with Network(plan.namespace) as network_:
        if ovs.release(network_.to_be_made_anew(plan.veths), there):
            there = ovs.read()
        changed["interfaces"] = network_.apply_veths(plan.veths)
        changed["interfaces' sysctls"] = _write(plan.namespace, plan.port_sysctls)
        changed["addresses"] = network_.apply_addresses(plan.addresses)
        changed["routes"] = network_.apply_routes(plan.routes)
        changed["rules"] = network_.apply_rules(plan.rules)
    with Endpoints(plan.namespace) as endpoints:
        changed["MPTCP limits"] = endpoints.apply_limits(plan.limits)
        changed["MPTCP endpoints"] = endpoints.apply(plan.endpoints)
    changed["ports and controller"] = ovs.apply(plan, there)
    return tuple(part for part, has_changed in changed.items() if has_changed)


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
    running = [f"{pid} ({command})" for pid, command in namespace.processes(NAMESPACE)]
    if running:
        raise FedsdnError(
            f"processes still run in network namespace {NAMESPACE}: {', '.join(running)}; "
            "stop the proxy first"
        )
