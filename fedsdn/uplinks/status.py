"""What the application knows of the site's uplinks and paths, told to others.

To the proxy by the channel, to ``fedsdn uplinks`` and the like by a file: that outlives a restart,
and an old one says nothing.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

STATUS_FILE = Path("/run/fedsdn/uplinks.json")

WRITE_SECONDS = 1.0
"""The application writes the file at least this often, and at once when something changes."""

STALE_SECONDS = 5.0
"""A file that is older than this was left by an application that does not run."""


class PortState(StrEnum):
    """What the bridge says of an uplink's port; unknown while no bridge is connected."""

    UP = "up"
    DOWN = "down"
    ABSENT = "absent"
    UNKNOWN = "unknown"


class PathState(StrEnum):
    """Whether a path carries packets both ways; unknown where nothing can tell."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class UplinkStatus:
    """One of the site's own uplinks. ``since`` is when its port came into this state (Unix time).

    ``endpoint`` is the identifier of its MPTCP endpoint, None while it has none.
    """

    name: str
    port: PortState
    since: float
    endpoint: int | None


@dataclass(frozen=True, slots=True)
class PathStatus:
    """A way from one of the site's uplinks to one of a peer's.

    ``since`` is when it came into this state (Unix time), ``why`` the reason in words. The
    round-trip time is in milliseconds, ``loss`` the part of the last probes that was lost, 0 to 1;
    None where nothing was measured.
    """

    uplink: str
    peer: str
    peer_uplink: str
    state: PathState
    since: float
    why: str
    rtt_ms: float | None
    loss: float | None


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """All uplinks and paths of a site. ``written`` is in Unix time."""

    site: str
    written: float
    uplinks: tuple[UplinkStatus, ...]
    paths: tuple[PathStatus, ...]

    @property
    def dead(self) -> frozenset[str]:
        """Uplinks without a path that lives; they need no endpoint, and mostly have none."""
        alive = {path.uplink for path in self.paths if path.state is not PathState.DOWN}
        return frozenset(path.uplink for path in self.paths) - alive


def write_status(status: SiteStatus, path: Path = STATUS_FILE) -> None:
    """Put a status in place of the last one, whole or not at all.

    Raises:
        OSError: it cannot be written.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(status)))
    os.replace(new, path)


def read_status(path: Path = STATUS_FILE) -> SiteStatus | None:
    """Read the status; None if there is none, or only one of an application that has ended."""
    try:
        return parse_status(path.read_text())
    except OSError:
        return None


def parse_status(text: str, now: float | None = None) -> SiteStatus | None:
    """Read the text of a status file, as ``read_status``; ``now`` is its host's Unix time."""
    try:
        status = status_from(json.loads(text))
    except ValueError:
        return None
    age = (time.time() if now is None else now) - status.written
    return status if abs(age) < STALE_SECONDS else None


def status_from(found: dict[str, Any]) -> SiteStatus:
    """Read a status as ``asdict`` writes it.

    Raises:
        ValueError: a state is none.

    """
    return SiteStatus(
        site=found["site"],
        written=found["written"],
        uplinks=tuple(
            UplinkStatus(**{**one, "port": PortState(one["port"])}) for one in found["uplinks"]
        ),
        paths=tuple(
            PathStatus(**{**one, "state": PathState(one["state"])}) for one in found["paths"]
        ),
    )
