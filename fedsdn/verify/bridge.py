"""Tests of a site's provider bridge: its ports, its application, its flows."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from fedsdn.openflow.bridge_socket import LIST_CONNECTIONS, is_connected
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.cookie import origin
from fedsdn.pipeline.declarations import (
    COOKIE_OWNER,
    COOKIE_OWNER_MASK,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    wan_port,
)
from fedsdn.pipeline.table_miss import without_table_miss
from fedsdn.shell import last_words
from fedsdn.site.ovs import others_table_miss
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.view import SiteView

_COOKIE = re.compile(r"cookie=(0x[0-9a-f]+)")
_TABLE = re.compile(r"\btable=(\d+)")
_PRIORITY = re.compile(r"\bpriority=(\d+)")
_LISTED = 3


def switch(view: SiteView) -> str:
    """Ask Open vSwitch for its version."""
    answer = view.shell.run("ovs-vsctl", "--timeout=5", "show")
    if answer.returncode:
        raise CheckFailedError(last_words(answer.stderr), "systemctl restart openvswitch-switch")
    version = view.shell.output("ovs-vsctl", "--version").split("\n")[0]
    return version.rsplit(" ", 1)[-1]


def bridge(view: SiteView) -> str:
    """Find the provider bridge."""
    bridges = view.shell.output("ovs-vsctl", "--timeout=5", "list-br").split()
    if view.bridge not in bridges:
        raise CheckFailedError(
            f"no bridge {view.bridge!r} among {', '.join(bridges) or 'none'}",
            "name the right one in provider_network.bridge, or "
            + view.shell.by_hand(f"ovs-vsctl add-br {view.bridge}"),
        )
    return view.bridge


def ports(view: SiteView) -> str:
    """Find the uplinks' ports and ours, and none with an error."""
    present = set(view.shell.output("ovs-vsctl", "--timeout=5", "list-ports", view.bridge).split())
    for uplink in view.site.uplinks:
        if uplink.port not in present:
            raise CheckFailedError(
                f"{view.bridge} has no port {uplink.port!r} for uplink {uplink.name}",
                view.shell.by_hand(f"ovs-vsctl add-port {view.bridge} {uplink.port}"),
            )
    ours = {SOCKSIFIER_PORT, SERVER_PORT, *map(wan_port, view.site.uplinks)}
    if absent := sorted(ours - present):
        raise CheckFailedError(f"{view.bridge} has no port {', '.join(absent)}", view.set_up)
    broken = [
        f"{interface['name']}: {interface['error']}"
        for interface in _interfaces(view)
        if interface["name"] in present and interface["error"]
    ]
    if broken:
        raise CheckFailedError("; ".join(broken), view.set_up)
    return f"{len(present)} ports"


def _interfaces(view: SiteView) -> list[dict[str, Any]]:
    columns = "--columns=name,link_state,error"
    command = ("ovs-vsctl", "--timeout=5", "--format=json", columns, "list", "Interface")
    table = view.shell.json(*command)
    return [dict(zip(table["headings"], map(_single, row), strict=True)) for row in table["data"]]


def _single(value: Any) -> Any:  # noqa: ANN401 -- a value of OVSDB
    """Turn OVSDB's empty set, which stands for no value, into None (RFC 7047, section 5.1)."""
    return None if value == ["set", []] else value


def carrier(view: SiteView) -> str:
    """See that every uplink's port has link."""
    wanted = {uplink.port: uplink.name for uplink in view.site.uplinks}
    states = {i["name"]: i["link_state"] for i in _interfaces(view) if i["name"] in wanted}
    down = [
        f"{wanted[port]} ({port}) is {state}" for port, state in states.items() if state != "up"
    ]
    if down:
        raise CheckFailedError(
            "uplink " + ", ".join(down), "plug the wire in (in a lab: fedsdn lab link WIRE up)"
        )
    return ", ".join(sorted(wanted.values()))


def application(view: SiteView) -> str:
    """See that the application is connected to the bridge."""
    if not is_connected(view.shell.output(*LIST_CONNECTIONS), view.bridge):
        raise CheckFailedError(
            f"the application is not connected to {view.bridge}", view.start_application
        )
    return view.bridge


def flows(view: SiteView) -> str:
    """Compare the bridge's flows of ours with the pipeline's, by cookie, table and priority."""
    ours = f"cookie={COOKIE_OWNER:#x}/{COOKIE_OWNER_MASK:#x}"
    # Those with a time-out are for connections that are being opened, and go by themselves.
    lasting = (line for line in _dump(view, ours).splitlines() if "hard_timeout=" not in line)
    present = Counter(key for key in map(_flow_key, lasting) if origin(key[0]) is not None)
    asked = pipeline_flows(view.federation, view.name)
    if others_table_miss(_dump(view, "table=0")):
        asked = without_table_miss(asked)
    wanted = Counter((flow.cookie, int(flow.table), flow.priority) for flow in asked)
    wrong = []
    for what, flows in (("missing", wanted - present), ("unknown", present - wanted)):
        if flows:
            tables = sorted({table for _cookie, table, _priority in flows})
            where = ", ".join(map(str, tables[:_LISTED])) + (" …" if tables[_LISTED:] else "")
            wrong.append(f"{flows.total()} {what} (table {where})")
    if wrong:
        raise CheckFailedError(
            f"{present.total()} flows of ours, {wanted.total()} wanted: {', '.join(wrong)}",
            f"(re)start the application: {view.start_application}",
        )
    return f"{present.total()} flows"


def _dump(view: SiteView, which: str) -> str:
    return view.shell.output("ovs-ofctl", "-O", "OpenFlow13", "dump-flows", view.bridge, which)


def _flow_key(line: str) -> tuple[int, int, int]:
    found = [pattern.search(line) for pattern in (_COOKIE, _TABLE, _PRIORITY)]
    cookie, table, priority = (match[1] if match else None for match in found)
    return int(cookie or "0", 16), int(table or 0), int(priority or 0x8000)
