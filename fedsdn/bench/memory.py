"""Memory that connections take: of the proxies, and of the kernel for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedsdn.verify.view import SiteView

_PAGE_KILOBYTES = 4


@dataclass(frozen=True, slots=True)
class Memory:
    """Kilobytes of the proxies' processes, and of all this machine's kernel has.

    ``sockets`` are buffers of TCP: both hosts' and their VMs', for the kernel counts no namespace
    apart. ``slab`` is the kernel's own memory, in which sockets and what they are found by are.
    """

    sockets: int
    proxies: int
    slab: int

    def __sub__(self, other: Memory) -> Memory:
        return Memory(
            self.sockets - other.sockets, self.proxies - other.proxies, self.slab - other.slab
        )

    def __or__(self, other: Memory) -> Memory:
        """Return the larger of each."""
        return Memory(
            max(self.sockets, other.sockets),
            max(self.proxies, other.proxies),
            max(self.slab, other.slab),
        )


def memory(views: Iterable[SiteView]) -> Memory:
    """Measure."""
    return Memory(_socket_kilobytes(), sum(_proxy_kilobytes(view) for view in views), _slab())


def _socket_kilobytes() -> int:
    """Return ``mem`` of all TCP sockets (proc(5))."""
    lines = Path("/proc/net/sockstat").read_text().splitlines()
    (fields,) = [line.split() for line in lines if line.startswith("TCP:")]
    return int(fields[fields.index("mem") + 1]) * _PAGE_KILOBYTES


def _slab() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Slab:"))


def _proxy_kilobytes(view: SiteView) -> int:
    lines = view.shell.output("ps", "-e", "-o", "rss=,args=").splitlines()
    return sum(int(line.split()[0]) for line in lines if "fedsdn proxy run" in line)
