"""Tests of a site's proxy: its network namespace, its uplinks, the program itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import (
    PROXY_NAMESPACE,
    SOCKSIFIER_LISTEN_PORTS,
    SOCKSIFIER_PORT,
    wan_port,
)
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.process.stats_socket import check_workers, checked
from fedsdn.shell import last_words
from fedsdn.uplinks.status import STATUS_FILE, SiteStatus, parse_status
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.view import SiteView


def namespace(view: SiteView) -> str:
    """Enter the namespace."""
    if view.proxy.run("true").returncode:
        raise CheckFailedError(f"no network namespace {PROXY_NAMESPACE!r}", view.set_up)
    return PROXY_NAMESPACE


def addresses(view: SiteView) -> str:
    """Find the uplinks' and the proxy's addresses, on interfaces that are up."""
    links = {link["ifname"]: link for link in view.proxy.json("ip", "-json", "address")}
    wanted = {(wan_port(u), str(u.address.ip)) for u in view.site.uplinks}
    wanted |= {(SOCKSIFIER_PORT, str(prefix.proxy_address)) for prefix in view.site.prefixes}
    present = {
        (name, address.get("local"))
        for name, link in links.items()
        for address in link["addr_info"]
        if "UP" in link["flags"]
    }
    if absent := sorted(wanted - present):
        listed = ", ".join(f"{address} on {name}" for name, address in absent)
        raise CheckFailedError(f"{PROXY_NAMESPACE} has no {listed} (or it is down)", view.set_up)
    return ", ".join(sorted(str(uplink.address.ip) for uplink in view.site.uplinks))


def mptcp(view: SiteView) -> str:
    """Read the namespace's sysctl."""
    answer = view.proxy.run("cat", "/proc/sys/net/mptcp/enabled")
    if answer.returncode:
        raise CheckFailedError(
            "this kernel has no MPTCP",
            "boot a kernel built with CONFIG_MPTCP and CONFIG_MPTCP_IPV6",
        )
    if answer.stdout.strip() != "1":
        raise CheckFailedError(f"net.mptcp.enabled is {answer.stdout.strip()}", view.set_up)
    return "net.mptcp.enabled is 1"


def endpoints(view: SiteView) -> str:
    """Compare the path manager's endpoints with the uplinks that live."""
    present = endpoint_addresses(view)
    reported = status(view)
    dead = frozenset() if reported is None else reported.dead
    addresses = {uplink.name: str(uplink.address.ip) for uplink in view.site.uplinks}
    present -= {addresses[name] for name in dead}
    wanted = {address for name, address in addresses.items() if name not in dead}
    if present != wanted:
        raise CheckFailedError(
            f"endpoints {_sorted(present)}, uplinks {_sorted(wanted)}", view.set_up
        )
    return _sorted(present)


def endpoint_addresses(view: SiteView) -> set[str]:
    """Ask the kernel for the addresses that connections may use."""
    listed = view.proxy.output("ip", "-json", "mptcp", "endpoint", "show")
    endpoints = json.loads(listed) if listed.strip() else []
    return {e["address"] for e in endpoints if not e.get("implicit")}


def status(view: SiteView) -> SiteStatus | None:
    """Read what the application reports of uplinks and paths; None while it does not run.

    The host's clock comes with it: that of another machine is not ours.
    """
    times = f"date +%s.%N && stat -c %.Y {STATUS_FILE}"
    answer = view.shell.run("sh", "-c", f"{times} && cat {STATUS_FILE}")
    if answer.returncode:
        return None
    now, kept, text = answer.stdout.split("\n", 2)
    return parse_status(text, float(now) - float(kept))


def _sorted(addresses: set[str]) -> str:
    return ", ".join(sorted(addresses)) or "none"


def set_up(view: SiteView) -> str:
    """Ask ``fedsdn site show`` what differs from the plan: routes, rules, filter, settings."""
    answer = view.shell.run(*view.fedsdn, "site", "show", "--json", *view.options)
    if not answer.stdout:
        raise CheckFailedError(last_words(answer.stderr), view.set_up)
    try:
        items = json.loads(answer.stdout)["items"]
        wrong = [f"{item['part']} {item['text']}" for item in items if not item["ok"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckFailedError(
            "'fedsdn site show' answers in the way of another version of fedsdn",
            f"install the version of this command at site {view.name}, too",
        ) from error
    if wrong:
        more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
        raise CheckFailedError(f"{wrong[0]} is not as planned{more}", view.set_up)
    return f"{len(items)} parts as planned"


def running(view: SiteView) -> str:
    """Ask the proxy for its workers."""
    with _as_check():
        return check_workers(proxy_statistics(view))


def proxy_statistics(view: SiteView) -> dict[str, int]:
    """Ask ``fedsdn proxy stats``.

    Raises:
        CheckFailedError: the proxy does not answer.

    """
    answer = view.shell.run(*view.fedsdn, "proxy", "stats", "--json")
    if answer.returncode:
        raise CheckFailedError(last_words(answer.stderr), view.start_proxy)
    with _as_check():
        try:
            return checked(json.loads(answer.stdout))
        except ValueError as error:
            raise CheckFailedError(
                "the proxy's statistics are no JSON", view.start_proxy
            ) from error


@contextmanager
def _as_check() -> Iterator[None]:
    """Let a check fail by an error whose line is what was found, a colon, and what to do."""
    try:
        yield
    except FedsdnError as error:
        found, _, fix = str(error).partition(": ")
        raise CheckFailedError(found, fix) from error


def listening(view: SiteView) -> str:
    """Find the proxy's two TCP ports."""
    wanted = {view.federation.proxy_port, SOCKSIFIER_LISTEN_PORTS[0]}
    lines = view.proxy.output("ss", "--no-header", "--listening", "--numeric", "--tcp").splitlines()
    present = {int(line.split()[3].rsplit(":", 1)[1]) for line in lines}
    if absent := sorted(wanted - present):
        raise CheckFailedError(f"nothing listens on TCP port {absent[0]}", view.start_proxy)
    return f"TCP ports {', '.join(map(str, sorted(wanted)))}"


def ping(view: SiteView, source: str, address: str) -> str:
    """Send three echo requests from an uplink's address."""
    answer = view.proxy.run("ping", "-c", "3", "-i", "0.02", "-W", "2", "-I", source, address)
    if answer.returncode:
        raise CheckFailedError(
            f"no answer from {address} to {source}",
            "see that the peer's site is up, that wires and gateways pass ICMP, and that nobody "
            "else answers there for what 'ip neigh show nud permanent' has ('mac: dynamic'); "
            + view.proxy.by_hand(f"ip route get {address} from {source}"),
        )
    times = re.search(r"= ([\d.]+)/([\d.]+)/", answer.stdout)
    came = re.search(r"(\d+) received", answer.stdout)
    lost = f", {came[1]} of 3 answers" if came and came[1] != "3" else ""
    return f"{address} in {times[2]} ms{lost}" if times else address


def sources(view: SiteView) -> str:
    """Say who restores clients' addresses, and where nobody does: that is for its operator."""
    warnings = Policy(view.federation, view.site).unrestored()
    return "; ".join(warnings) or f"all restored ({view.site.source_restore})"


def encryption(view: SiteView) -> str:
    """Say with which peers connections are not encrypted: that is for its operator."""
    return "; ".join(Policy(view.federation, view.site).in_clear()) or "TLS with all peers"
