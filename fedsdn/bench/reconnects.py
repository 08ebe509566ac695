"""What the application keeps of connections to its bridge that have ended: nothing.

Open vSwitch closes all connections to a bridge whose list of protocols is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsdn.lab.host import Host
from fedsdn.lab.operator import CONTROLLER

_PROTOCOLS = ("OpenFlow10,OpenFlow13", "OpenFlow10,OpenFlow13,OpenFlow14")
_WARM_UP = 20
MOST_DESCRIPTORS = 2
"""Descriptors that may be more: somebody may just be asking the application something."""
MOST_KILOBYTES = 4096
"""Memory that may come with them, whatever their number: the allocator's, not theirs."""


@dataclass(frozen=True, slots=True)
class Held:
    """Threads, descriptors and kilobytes of the application."""

    threads: int
    descriptors: int
    kilobytes: int


@dataclass(frozen=True, slots=True)
class Reconnects:
    """What the application held before and after so many connections."""

    count: int
    before: Held
    after: Held

    @property
    def broken(self) -> list[str]:
        """Say what has become more."""
        before, after = self.before, self.after
        found = []
        if (
            after.threads > before.threads
            or after.descriptors > before.descriptors + MOST_DESCRIPTORS
        ):
            found.append(
                f"{self.count} reconnects: {after.threads} threads and {after.descriptors} "
                f"descriptors, before {before.threads} and {before.descriptors}"
            )
        if after.kilobytes > before.kilobytes + MOST_KILOBYTES:
            found.append(
                f"{self.count} reconnects: {after.kilobytes} kB of memory, before "
                f"{before.kilobytes}"
            )
        return found


def reconnect(host: Host, bridge: str, count: int, connected: Callable[[], None]) -> Reconnects:
    """Have Open vSwitch close the connection so many times; ``connected`` waits for the next one.

    Raises:
        FedsdnError: it does not come.

    """
    settings = host.run("ovs-vsctl", "get", "Bridge", bridge, "protocols").strip()
    before = None
    for number in range(_WARM_UP + count):
        if number == _WARM_UP:
            before = _held(host)
        protocols = _PROTOCOLS[number % len(_PROTOCOLS)]
        host.run("ovs-vsctl", "set", "Bridge", bridge, f"protocols={protocols}")
        connected()
    after = _held(host)
    host.run("ovs-vsctl", "set", "Bridge", bridge, f"protocols={settings}")
    return Reconnects(count, before or after, after)


def _held(host: Host) -> Held:
    number = host.daemon(CONTROLLER).number
    process = Path(f"/proc/{host.process.pid}/root/proc/{number}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Held(
        threads=int(status["Threads"]),
        descriptors=len(list((process / "fd").iterdir())),
        kilobytes=int(status["VmRSS"].split()[0]),
    )


def table(found: Reconnects) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """Return title, headings and rows."""
    return (
        f"The application, after {found.count} connections to the bridge that were closed",
        ("", "threads", "descriptors", "memory, kB"),
        [
            (name, str(held.threads), str(held.descriptors), str(held.kilobytes))
            for name, held in (("before", found.before), ("after", found.after))
        ],
    )
