"""How the proxy runs, and what of it a reload hands on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedsdn.proxy.process.handed_on import HandedRows


@dataclass(frozen=True, slots=True)
class Settings:
    """How the proxy runs.

    On a stop, connections have ``drain_seconds`` to end. ``namespace`` is the name of the network
    namespace that the proxy runs in, ``identity`` the directory of this site's private keys.
    """

    site: str
    federation: Path
    workers: int
    drain_seconds: float
    namespace: str
    identity: Path


@dataclass(frozen=True, slots=True)
class Kept:
    """What a reload hands on of what the first program has made, as descriptors.

    Blocks of memory, those of earlier programs' rows, and the program that keeps SYNs in order.
    """

    memory: tuple[int, ...]
    earlier: tuple[HandedRows, ...]
    order: int
