"""Checks of one site: bridge, application, flows, namespace, proxy, uplinks.

They only look (and ping the peers), so they may run on a site that carries traffic.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cache, partial
from itertools import product

from fedsdn.config.model import Site, Uplink
from fedsdn.shell import last_words
from fedsdn.verify import bridge as bridge_checks
from fedsdn.verify import proxy as proxy_checks
from fedsdn.verify.checks import Check, CheckFailedError
from fedsdn.verify.failures import failures
from fedsdn.verify.files import files
from fedsdn.verify.tunnels import tunnels_line
from fedsdn.verify.view import SiteView


class SiteCheck(StrEnum):
    """Names of a site's checks."""

    ROOT = "root"
    IDENTITY = "identity"
    SWITCH = "Open vSwitch answers"
    BRIDGE = "bridge"
    PORTS = "ports"
    CARRIER = "carrier of the uplinks"
    APPLICATION = "application connected"
    FLOWS = "flows"
    FILES = "federation file"
    NAMESPACE = "namespace"
    ADDRESSES = "addresses"
    MPTCP = "MPTCP is on"
    ENDPOINTS = "MPTCP endpoints"
    PROXY = "proxy runs"
    LISTENING = "proxy listens"
    SET_UP = "rest of the set-up"
    TUNNELS = "tunnels"
    FAILURES = "failures"
    SOURCES = "clients' addresses"
    ENCRYPTION = "encryption"


def section(view: SiteView) -> str:
    """Section of the report for a site."""
    return f"site {view.name}"


def title(view: SiteView, name: str) -> str:
    """Title of one of a site's checks, for others to need."""
    return f"{section(view)}: {name}"


def _check(
    view: SiteView, name: str, proves: str, test: Callable[[SiteView], str], *needs: str
) -> Check:
    needed = tuple(title(view, need) for need in needs)
    return Check(section(view), name, proves, partial(test, view), needed)


def site_checks(view: SiteView) -> list[Check]:
    """Return the checks of a site, each after those it needs."""
    return [
        _check(view, SiteCheck.ROOT, "this user may look at everything", _root),
        _check(
            view,
            SiteCheck.IDENTITY,
            "the site's keys are good, private, in the federation file, and no peer's end soon",
            _identity,
            SiteCheck.ROOT,
        ),
        *_bridge_checks(view),
        *_namespace_checks(view),
        *_proxy_checks(view),
        *_reach_checks(view),
    ]


def _root(view: SiteView) -> str:
    user = view.shell.output("id", "-u").strip()
    if user != "0":
        raise CheckFailedError(f"user id {user}", "sudo fedsdn verify")
    return "user id 0"


def _identity(view: SiteView) -> str:
    done = view.shell.run(*view.fedsdn, "identity", "check", "--json", *view.options)
    try:
        found = json.loads(done.stdout)["parts"]
    except (json.JSONDecodeError, KeyError) as error:
        said = last_words(done.stderr, done.stdout)
        raise CheckFailedError(said, view.shell.by_hand("fedsdn identity check")) from error
    for part in found:
        if part["fix"]:
            raise CheckFailedError(part["text"], part["fix"])
    return str(found[0]["text"])


def _bridge_checks(view: SiteView) -> list[Check]:
    check = partial(_check, view)
    return [
        check(
            SiteCheck.SWITCH,
            "Open vSwitch's daemons run",
            bridge_checks.switch,
            SiteCheck.ROOT,
        ),
        check(
            SiteCheck.BRIDGE,
            "the provider network has its bridge",
            bridge_checks.bridge,
            SiteCheck.SWITCH,
        ),
        check(
            SiteCheck.PORTS,
            "the bridge has the uplinks' and the proxy's ports",
            bridge_checks.ports,
            SiteCheck.BRIDGE,
        ),
        check(
            SiteCheck.CARRIER,
            "every uplink's wire is plugged in",
            bridge_checks.carrier,
            SiteCheck.PORTS,
        ),
        check(
            SiteCheck.APPLICATION,
            "the application is connected to the bridge",
            bridge_checks.application,
            SiteCheck.BRIDGE,
        ),
        check(
            SiteCheck.FLOWS,
            "the bridge has exactly the flows that the federation file asks for",
            bridge_checks.flows,
            SiteCheck.PORTS,
        ),
        check(
            SiteCheck.FILES,
            "the application and the peers that it hears follow this federation file",
            lambda view: files(view, proxy_checks.status(view)),
            SiteCheck.APPLICATION,
        ),
    ]


def _namespace_checks(view: SiteView) -> list[Check]:
    check = partial(_check, view)
    return [
        check(
            SiteCheck.NAMESPACE,
            "the proxy's network namespace is there",
            proxy_checks.namespace,
            SiteCheck.ROOT,
        ),
        check(
            SiteCheck.ADDRESSES,
            "the namespace holds the uplinks' addresses",
            proxy_checks.addresses,
            SiteCheck.NAMESPACE,
        ),
        check(
            SiteCheck.MPTCP,
            "the kernel speaks Multipath TCP here",
            proxy_checks.mptcp,
            SiteCheck.NAMESPACE,
        ),
        check(
            SiteCheck.ENDPOINTS,
            "every uplink with a live path is an MPTCP endpoint, and nothing else is",
            proxy_checks.endpoints,
            SiteCheck.MPTCP,
        ),
        check(
            SiteCheck.SET_UP,
            "routes, rules, packet filter and kernel settings are as planned",
            proxy_checks.set_up,
            SiteCheck.PORTS,
            SiteCheck.ADDRESSES,
            SiteCheck.ENDPOINTS,
        ),
        check(
            SiteCheck.TUNNELS,
            "there is a tunnel for what is not TCP on every path, and live ones are answered",
            lambda view: tunnels_line(view, proxy_checks.status(view)),
            SiteCheck.SET_UP,
        ),
    ]


def _proxy_checks(view: SiteView) -> list[Check]:
    check = partial(_check, view)
    return [
        check(
            SiteCheck.PROXY,
            "the proxy answers, with all its workers",
            proxy_checks.running,
            SiteCheck.NAMESPACE,
        ),
        check(
            SiteCheck.LISTENING,
            "both of the proxy's ports are open",
            proxy_checks.listening,
            SiteCheck.PROXY,
        ),
    ]


def reach(uplink: Uplink, peer: Site, other: Uplink) -> str:
    """Name of the check that ``uplink`` reaches ``other`` of ``peer``."""
    return f"{uplink.name} reaches {peer.name}/{other.name}"


def _reach_checks(view: SiteView) -> Iterator[Check]:
    needs = tuple(
        title(view, need) for need in (SiteCheck.CARRIER, SiteCheck.FLOWS, SiteCheck.ADDRESSES)
    )
    for peer in view.federation.peers(view.name):
        for uplink, other in product(view.site.uplinks, peer.uplinks):
            if uplink.reaches(other):
                source, address = str(uplink.address.ip), str(other.peer_address)
                yield Check(
                    section(view),
                    reach(uplink, peer, other),
                    f"packets from {source} to {address} are answered",
                    partial(proxy_checks.ping, view, source, address),
                    needs,
                )


def traffic_counter_checks(view: SiteView) -> list[Check]:
    """Return the checks of what the proxy has counted, for the end: our own traffic counts too."""
    counted = cache(partial(proxy_checks.proxy_statistics, view))
    return [
        _check(
            view,
            SiteCheck.FAILURES,
            "no connection failed in the last ten minutes for a reason that somebody can mend",
            lambda _: failures(counted()),
            SiteCheck.PROXY,
        ),
        _check(
            view,
            SiteCheck.SOURCES,
            "which VMs do not see the address of their client can be seen",
            proxy_checks.sources,
        ),
        _check(
            view,
            SiteCheck.ENCRYPTION,
            "with which peers what is carried may be read on the way can be seen",
            proxy_checks.encryption,
        ),
    ]
