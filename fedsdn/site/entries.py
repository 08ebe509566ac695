"""What netlink lists of the proxy's namespace, read into the values of the plan.

The plan's values hold what fedsdn itself sets. An entry that says more, or is of another kind, was
made by somebody else: it becomes ``Foreign``, which shows all of it, and is never taken for one of
ours. Pure code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl import rt_type

from fedsdn.config.model import Family
from fedsdn.site.values import InterfaceAddress, Route, RouteKind, Rule

FAMILY: dict[int, Family] = {2: 4, 10: 6}
_ROUTE_KINDS = {1: RouteKind.UNICAST, 2: RouteKind.LOCAL, 7: RouteKind.UNREACHABLE}
_RULE_ACTIONS = {2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_TO_TABLE = 1
_INVERTED = 0x2
BY_KERNEL, STATIC = 2, 4  # RTPROT_KERNEL and, for rules, the same number; RTPROT_STATIC
LEARNT = 0x200  # RTM_F_CLONED: an exception to a route, as for a peer behind a smaller MTU
_KERNEL_ADDRESSES = (1, 3)  # IFAPROT_KERNEL_LO, IFAPROT_KERNEL_LL
_LOOPBACK = ip_interface("127.0.0.1/8")
_EVERYWHERE, _ON_LINK, _HERE = 0, 253, 254  # RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST
_NO_LIMIT = 0xFFFFFFFF
METRIC = {4: None, 6: 1024}
"""Priority of a route for which nobody asked for another."""

Names = Mapping[int, str]
"""Interfaces' names by their indices."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """An entry that no plan holds, as a person may read it."""

    text: str

    def __str__(self) -> str:
        return self.text


def address(message: nlmsg, names: Names) -> InterfaceAddress | Foreign | None:
    """Read an address (RTM_NEWADDR); None if the kernel gave it by itself."""
    interface = names.get(message["index"], "?")
    local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    own = ip_interface(f"{local}/{message['prefixlen']}")
    if message.get_attr("IFA_PROTO") in _KERNEL_ADDRESSES:
        return None
    if interface == "lo" and own == _LOOPBACK:
        return None
    peer = message.get_attr("IFA_ADDRESS")
    if peer != local:
        return Foreign(f"{own.ip} peer {peer}/{message['prefixlen']} dev {interface}")
    return InterfaceAddress(interface, own)


def route(message: nlmsg, names: Names) -> Route | Foreign | None:
    """Read a route (RTM_NEWROUTE); None if the kernel made it by itself, or the application."""
    if message["proto"] == BY_KERNEL or message["flags"] & LEARNT:
        return None
    found = _known_route(message, names)
    return found if found and _says_no_more(message, found) else _foreign_route(message, names)


def _known_route(message: nlmsg, names: Names) -> Route | None:
    kind = _ROUTE_KINDS.get(message["type"])
    if kind is None:
        return None
    gateway, source = message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_PREFSRC")
    metrics = message.get_attr("RTA_METRICS")
    has_interface = kind is not RouteKind.UNREACHABLE and message.get_attr("RTA_OIF")
    return Route(
        table=message.get_attr("RTA_TABLE"),
        destination=_destination(message),
        kind=kind,
        interface=names.get(message.get_attr("RTA_OIF"), "?") if has_interface else None,
        gateway=ip_address(gateway) if gateway else None,
        source=ip_address(source) if source else None,
        mtu=metrics.get_attr("RTAX_MTU") if metrics is not None else None,
    )


def _destination(message: nlmsg) -> Any:  # noqa: ANN401  (a network of either family)
    nothing = "0.0.0.0" if message["family"] == 2 else "::"
    return ip_network(f"{message.get_attr('RTA_DST') or nothing}/{message['dst_len']}")


def _says_no_more(message: nlmsg, found: Route) -> bool:
    """Whether a route is exactly what we would have asked for."""
    version = found.destination.version
    ours = {"RTA_TABLE", "RTA_DST", "RTA_OIF", "RTA_GATEWAY", "RTA_PREFSRC"}
    ours |= {"RTA_METRICS"} if found.mtu is not None and len(_metrics(message)) == 1 else set()
    usual = {"RTA_PRIORITY": METRIC[version], "RTA_PREF": 0}
    return (
        (message["proto"], message["tos"], message["src_len"]) == (STATIC, 0, 0)
        and message["scope"] == (scope(found) if version == 4 else _EVERYWHERE)
        and not _expires(message)
        and all(
            name in ours or name == "RTA_CACHEINFO" or usual.get(name, ...) == value
            for name, value in message["attrs"]
        )
    )


def _metrics(message: nlmsg) -> list[object]:
    return list((message.get_attr("RTA_METRICS") or {}).get("attrs", ()))


def scope(wanted: Route) -> int:
    """Return the scope of an IPv4 route: how far its destinations are (ip-route(8))."""
    if wanted.kind is RouteKind.LOCAL:
        return _HERE
    return _ON_LINK if wanted.interface and not wanted.gateway else _EVERYWHERE


def _expires(message: nlmsg) -> bool:
    return bool((message.get_attr("RTA_CACHEINFO") or {}).get("rta_expires"))


def _foreign_route(message: nlmsg, names: Names) -> Foreign:
    kind = rt_type.get(message["type"], f"type {message['type']}")
    said = [] if kind == "unicast" else [kind]
    said.append(str(_destination(message)))
    shown = {"RTA_TABLE", "RTA_DST", "RTA_CACHEINFO", "RTA_PREF"}
    said += _attributes(message, "RTA_", shown, names)
    said += ["expires"] if _expires(message) else []
    said += [f"tos {message['tos']:#x}"] if message["tos"] else []
    said.append(f"proto {message['proto']} scope {message['scope']}")
    return Foreign(f"table {message.get_attr('RTA_TABLE')}: {' '.join(said)}")


def rule(message: nlmsg) -> Rule | Foreign | None:
    """Read a rule (RTM_NEWRULE); None if the kernel made it for what is in the namespace."""
    by_kernel = message.get_attr("FRA_PROTOCOL") == BY_KERNEL
    if message["family"] not in FAMILY:
        return _foreign_rule(message)
    source, mask = message.get_attr("FRA_SRC"), message.get_attr("FRA_FWMASK")
    found = Rule(
        priority=message.get_attr("FRA_PRIORITY") or 0,
        family=FAMILY[message["family"]],
        table=message.get_attr("FRA_TABLE"),
        source=ip_address(source) if source else None,
        mark=message.get_attr("FRA_FWMARK"),
        mask=None if mask in {None, _NO_LIMIT} else mask,
        by_kernel=by_kernel,
    )
    whole = 0 if found.source is None else found.source.max_prefixlen
    if message["src_len"] == whole and _is_plain(message):
        return found
    return None if by_kernel else _foreign_rule(message)


def _is_plain(message: nlmsg) -> bool:
    """Whether a rule says no more than its priority, table, source and mark."""
    ours = {"FRA_PRIORITY", "FRA_TABLE", "FRA_SRC", "FRA_FWMARK", "FRA_FWMASK", "FRA_PROTOCOL"}
    usual = {"FRA_SUPPRESS_PREFIXLEN": _NO_LIMIT}
    return (
        message.get_attr("FRA_PROTOCOL") in {0, BY_KERNEL}
        and (message["action"], message["flags"], message["tos"]) == (_TO_TABLE, 0, 0)
        and message["dst_len"] == 0
        and all(name in ours or usual.get(name, ...) == value for name, value in message["attrs"])
    )


def _foreign_rule(message: nlmsg) -> Foreign:
    action = message["action"]
    inverted = "not " if message["flags"] & _INVERTED else ""
    ends = [
        f"{word} {message.get_attr(name) or '::'}/{message[length]}"
        for word, name, length in (("from", "FRA_SRC", "src_len"), ("to", "FRA_DST", "dst_len"))
        if message[length]
    ]
    shown = {"FRA_PRIORITY", "FRA_SRC", "FRA_DST", "FRA_TABLE", "FRA_SUPPRESS_PREFIXLEN"}
    shown |= set() if message.get_attr("FRA_PROTOCOL") else {"FRA_PROTOCOL"}
    said = [*(ends or ["from all"]), *_attributes(message, "FRA_", shown, {})]
    least = message.get_attr("FRA_SUPPRESS_PREFIXLEN")
    said += [] if least in {None, _NO_LIMIT} else [f"suppress_prefixlen {least}"]
    said += [f"tos {message['tos']:#x}"] if message["tos"] else []
    table = message.get_attr("FRA_TABLE")
    said.append(
        f"lookup {table}" if action == _TO_TABLE else _RULE_ACTIONS.get(action, f"action {action}")
    )
    family = FAMILY.get(message["family"])
    which = f"IPv{family}" if family else f"family {message['family']}"
    priority = message.get_attr("FRA_PRIORITY") or 0
    return Foreign(f"{priority}: {inverted}{' '.join(said)} ({which})")


def neighbour(message: nlmsg, names: Names) -> Foreign:
    """Read a neighbour (RTM_NEWNEIGH) that is none of ours."""
    interface = names.get(message["ifindex"], "?")
    where = f"{message.get_attr('NDA_DST')} dev {interface}"
    flags = f" flags {message['flags']:#x}" if message["flags"] else ""
    return Foreign(f"{where} lladdr {message.get_attr('NDA_LLADDR')} permanent{flags}")


def _attributes(message: nlmsg, prefix: str, shown: set[str], names: Names) -> Iterator[str]:
    """Yield the attributes that are not ``shown`` yet, under their names in the kernel."""
    for name, value in message["attrs"]:
        if name == "RTA_OIF":
            yield f"dev {names.get(value, value)}"
        elif name == "UNKNOWN":  # to pyroute2
            yield f"attribute {value['header']['type']}"
        elif name not in shown:
            yield f"{name.removeprefix(prefix).lower()} {_value(value, names)}"


def _value(value: object, names: Names) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(one, names) for one in value)}]"
    if isinstance(value, dict):
        parts = {name: part for name, part in value.items() if name not in {"attrs", "header"}}
        parts |= {name.lower(): part for name, part in value.get("attrs", ())}
        if "oif" in parts:
            parts["oif"] = names.get(parts["oif"], parts["oif"])
        return " ".join(f"{name} {_value(part, names)}" for name, part in parts.items())
    return str(value)
