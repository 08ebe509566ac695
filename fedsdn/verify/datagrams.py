"""Checks with what is not TCP between two sites' VMs: ping, UDP of several sizes, DNS."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial

from fedsdn.config.decision import Decision, Question, decide
from fedsdn.config.rules import Protocol
from fedsdn.traffic.datagram_runner import DNS_PORT, ask, resolve, serving
from fedsdn.traffic.echoes import Echo
from fedsdn.traffic.runner import PORT
from fedsdn.verify import site as site_checks
from fedsdn.verify.checks import Check, CheckFailedError
from fedsdn.verify.paths import PROHIBITED, VmPath
from fedsdn.verify.site import SiteCheck

_PING = "ping"
_UDP = "UDP, 1 kB"
_PINGS = 5
_SMALL = 1000
_LARGE = 9000
_HEADERS = {4: 28, 6: 48}
"""Bytes of IP and UDP around a datagram."""
_PREREQUISITES = (SiteCheck.PORTS, SiteCheck.FLOWS, SiteCheck.ADDRESSES, SiteCheck.TUNNELS)


def datagram_checks(path: VmPath) -> list[Check]:
    """Return the checks of one path; of what the federation file forbids, that it is refused."""
    return [*_ping_checks(path), *_udp_checks(path)]


def pings(path: VmPath) -> str:
    """Title of the check that a VM's ping is answered."""
    return f"{path.section}: {_PING}"


def refused(path: VmPath, protocol: Protocol, *ports: int) -> tuple[int, Decision] | None:
    """Return one of some ports, and what the file says, if it does not allow all of them."""
    for port in ports:
        asked = Question(path.source, path.destination, port, protocol)
        decision = decide(path.near.federation, asked)
        if not decision.allowed:
            return port, decision
    return None


def _check(
    path: VmPath, name: str, proves: str, test: Callable[[VmPath], str], *needs: str
) -> Check:
    sites = (path.near, path.far)
    titles = (site_checks.title(site, need) for site in sites for need in _PREREQUISITES)
    needed = (*titles, *(f"{path.section}: {need}" for need in needs))
    return Check(path.section, name, proves, partial(test, path), needed)


def _ping_checks(path: VmPath) -> list[Check]:
    if forbidden := refused(path, "icmp", 0):
        return [
            _check(
                path,
                "ping prohibited",
                f"site {path.near.name} refuses at once what the federation file forbids",
                partial(_ping_prohibited, decision=forbidden[1]),
            )
        ]
    proves = f"a VM of {path.near.name} gets echo replies from one of {path.far.name}"
    return [_check(path, _PING, proves, _ping)]


def _udp_checks(path: VmPath) -> list[Check]:
    if forbidden := refused(path, "udp", PORT, DNS_PORT):
        port, decision = forbidden
        return [
            _check(
                path,
                "UDP prohibited",
                f"site {path.near.name} refuses at once what the federation file forbids",
                partial(_udp_prohibited, port=port, decision=decision),
            )
        ]
    return [
        _check(
            path,
            _UDP,
            "datagrams arrive unchanged, from the near VM's own address, and so do answers",
            partial(_echo, size=_SMALL),
        ),
        _check(
            path,
            "UDP, the VM's MTU",
            "what is larger than the tunnels carry, and not to be cut, is refused with a word for "
            "the size that passes, and that does pass",
            _whole,
            _UDP,
        ),
        _check(
            path,
            "UDP, 9 kB",
            "datagrams in fragments arrive unchanged, and so do answers",
            partial(_echo, size=_LARGE),
            _UDP,
        ),
        _check(path, "DNS over UDP", "a question is answered", _resolve, _UDP),
    ]


def _ping(path: VmPath) -> str:
    sent = ("-n", "-c", str(_PINGS), "-i", "0.2", "-W", "2", str(path.destination))
    done = path.near_vm.shell.run("ping", *sent)
    came = re.search(r"(\d+) received", done.stdout)
    times = re.search(r"= ([\d.]+)/([\d.]+)/", done.stdout)
    # The first may find no way yet: the near VM asks for its gateway's address, the far one too.
    if came is None or int(came[1]) < _PINGS - 1 or "DUP!" in done.stdout:
        raise CheckFailedError(
            f"{path.destination} answered {came[1] if came else 0} of {_PINGS} echo requests of "
            f"{path.source}" + _icmp_word(done.stdout),
            look_at(path),
        )
    return f"{path.destination} in {times[2]} ms" if times else str(path.destination)


def _icmp_word(output: str) -> str:
    """Return what an ICMP error said, if one came."""
    said = re.search(r"^From (\S+) icmp_seq=\d+ (.*)$", output, re.MULTILINE)
    return f"; {said[1]} says: {said[2]}" if said else ""


def look_at(path: VmPath) -> str:
    """Say what a person types to see where datagrams of a path end."""
    near, far = path.near, path.far
    trace = f"fedsdn trace {path.source} {path.destination} --protocol icmp"
    return "; ".join(
        (
            near.shell.by_hand(trace),
            near.shell.by_hand("fedsdn datagrams"),
            far.shell.by_hand("fedsdn status"),
        )
    )


def _ping_prohibited(path: VmPath, decision: Decision) -> str:
    sent = ("-n", "-c", "3", "-i", "0.2", "-W", "2", str(path.destination))
    said = _icmp_word(path.near_vm.shell.run("ping", *sent).stdout)
    if "filtered" not in said.lower() and "prohibited" not in said.lower():
        raise CheckFailedError(
            f"ping {path.destination} from {path.source}: {said.lstrip('; ') or 'no answer'}, but "
            f"{decision.why}",
            path.near.set_up,
        )
    return f"{said.lstrip('; ')}: {decision.why}"


def _udp_prohibited(path: VmPath, port: int, decision: Decision) -> str:
    found = ask(path.near_vm.shell, path.destination, _SMALL, port=port)
    if found.error != os.strerror(PROHIBITED[path.family]):
        raise CheckFailedError(
            f"UDP to {path.destination} port {port}: {found.error or 'an answer'}, but "
            f"{decision.why}",
            path.near.set_up,
        )
    return (
        f"{found.error}: {decision.why}; for the other checks, allow UDP ports {PORT} and "
        f"{DNS_PORT}"
    )


def _echo(path: VmPath, size: int) -> str:
    with serving(path.far_vm.shell, path.destination):
        found = ask(path.near_vm.shell, path.destination, size)
    _answered(path, found)
    return f"{size} bytes there and back, SHA-256 equal{_tries(found)}"


def _answered(path: VmPath, found: Echo) -> None:
    """See that a datagram was answered with itself, and came from the VM's own address."""
    what = f"{found.size} bytes of UDP from {path.source} to {path.destination}"
    if found.error or not found.intact:
        raise CheckFailedError(
            f"{what}: {found.error or 'what came back is not what was sent'}"
            + (f" ({found.tries} tries)" if found.tries > 1 else ""),
            look_at(path),
        )
    if found.seen != found.local:
        raise CheckFailedError(
            f"{what}: {found.local} was seen as {found.seen}",
            f"see that no NAT is between proxy and VM at {path.far.name}; {path.far.set_up}",
        )


def _tries(found: Echo) -> str:
    return f", the {found.tries}th time" if found.tries > 3 else ""


def _whole(path: VmPath) -> str:
    mtu = _vm_mtu(path)
    size = mtu - _HEADERS[path.family]
    with serving(path.far_vm.shell, path.destination):
        found = ask(path.near_vm.shell, path.destination, size, whole=True)
    _answered(path, found)
    if found.mtu is None:
        return f"{mtu} bytes pass in one piece"
    return f"of {mtu} bytes {found.mtu} pass in one piece, as ICMP says"


def _vm_mtu(path: VmPath) -> int:
    """Return the MTU of the near VM's interface towards the far one."""
    shell = path.near_vm.shell
    route = shell.json("ip", "-json", "route", "get", str(path.destination))
    link = shell.json("ip", "-json", "link", "show", "dev", route[0]["dev"])
    return int(link[0]["mtu"])


def _resolve(path: VmPath) -> str:
    with serving(path.far_vm.shell, path.destination):
        found = resolve(path.near_vm.shell, path.destination)
    if found.addresses != [str(path.destination)]:
        raise CheckFailedError(
            f"a question to {path.destination} port {DNS_PORT}: "
            f"{found.error or ', '.join(found.addresses)}",
            look_at(path),
        )
    return f"answered by {path.destination}"
