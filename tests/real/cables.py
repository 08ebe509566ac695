"""Two network namespaces that cables join: less than a site, where packets alone matter."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedsdn.lab.namespaces import Namespace

Ends = tuple[str, str]
"""An address here and one there, with their prefix length."""


class Joined(Namespace):
    """A namespace by its name; cables are ``wire0``, ``wire1``, ..."""

    def __init__(self, name: str) -> None:
        super().__init__(Path("/run/netns", name))
        self.name = name

    def run(self, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.name, *command], check=True)


@contextmanager
def joined(cables: Sequence[Sequence[Ends]]) -> Iterator[tuple[Joined, Joined]]:
    """Make two namespaces and cables between them, each with these addresses, meanwhile."""
    names = (f"near-{os.getpid()}", f"far-{os.getpid()}")
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        ends = tuple(map(Joined, names))
        for number, addresses in enumerate(cables):
            device = f"wire{number}"
            ends[0].run("ip", "link", "add", "name", device, "type", "veth",
                        "peer", "name", device, "netns", names[1])  # fmt: skip
            for side, end in enumerate(ends):
                for pair in addresses:
                    nodad = ["nodad"] if ":" in pair[side] else []
                    end.run("ip", "address", "add", pair[side], "dev", device, *nodad)
                end.run("ip", "link", "set", device, "up")
        yield ends[0], ends[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)
