"""The federation's entries in the bridge's conntrack (ovs-dpctl(8), ``dump-conntrack``)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from fedsdn.ovs.commands import run
from fedsdn.ovs.database import read_bridge
from fedsdn.pipeline.declarations import CT_ZONE, CtMark
from fedsdn.shell import Shell
from fedsdn.socket_address import SocketAddress

_ENTRY = re.compile(r"tcp,orig=\((?P<orig>[^)]*)\),reply=\((?P<reply>[^)]*)\)(?P<rest>.*)")
_MARK = re.compile(r"\bmark=(0x[0-9a-f]+|\d+)")
_STATE = re.compile(r"\bstate(?:_orig)?=(\w+)")
_ENDED = frozenset({"CLOSED", "CLOSING", "LAST_ACK", "TIME_WAIT"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A TCP connection that conntrack knows.

    ``client`` and ``destination`` are as the VMs see them, also where the bridge translates;
    ``opener`` is the source of the first segment as the bridge got it. ``mark`` is 0 if no
    direction was committed. ``state`` is conntrack's word for the TCP state.
    """

    client: SocketAddress
    destination: SocketAddress
    opener: SocketAddress
    mark: int
    state: str

    @property
    def outbound(self) -> bool:
        """Whether a VM of this site opened it; unmarked is what only such a VM's SYN has made."""
        return self.mark != CtMark.INBOUND

    @property
    def ended(self) -> bool:
        """Whether both sides have ended; conntrack remembers it for a while."""
        return self.state in _ENDED


def parse_entries(lines: Iterable[str]) -> list[Entry]:
    """Read the TCP entries of a dump; other lines are left out."""
    return [_entry(found) for line in lines if (found := _ENTRY.match(line.strip()))]


def _entry(found: re.Match[str]) -> Entry:
    source, _ = _ends(found["orig"])
    answers_from, answers_to = _ends(found["reply"])
    mark, state = _MARK.search(found["rest"]), _STATE.search(found["rest"])
    return Entry(
        client=answers_to,
        destination=answers_from,
        opener=source,
        mark=int(mark[1], 0) if mark else 0,
        state=state[1] if state else "",
    )


def _ends(text: str) -> tuple[SocketAddress, SocketAddress]:
    value = dict(field.split("=", 1) for field in text.split(","))
    return (
        SocketAddress(ip_address(value["src"]), int(value["sport"])),
        SocketAddress(ip_address(value["dst"]), int(value["dport"])),
    )


def entries(shell: Shell, bridge: str) -> list[Entry]:
    """Return what conntrack has in the federation's zone.

    Raises:
        OvsError: Open vSwitch does not answer, or has no such bridge.

    """
    kind = read_bridge(shell, bridge).datapath_type
    command = ("ovs-appctl", "dpctl/dump-conntrack", f"{kind}@ovs-{kind}", f"zone={CT_ZONE}")
    return parse_entries(run(shell, *command).splitlines())
