"""The status of a site's uplinks and paths, as its application reports it.

``fedsdn uplinks`` and the like get it by a file, which outlives a restart of the application. As
long as that runs it keeps the file's time of modification; a file that is older counts as none.
(The proxy is told what changes: ``news``.)
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from fedsdn import files
from fedsdn.errors import FedsdnError

STATUS_FILE = Path("/run/fedsdn/uplinks.json")

WRITE_SECONDS = 1.0
"""The application writes the file this often, and at once when a state changes; with thousands of
paths less often, as that is not to take more than a part of the time. It is kept this often."""

COMPARE_FILES = "compare them: ssh THERE cat FILE | fedsdn federation diff /dev/stdin"
"""What a person does where sites have different federation files."""

STALE_SECONDS = 5.0
"""What an application said before that is not believed any more: it does not run."""


class PortState(StrEnum):
    """The state of an uplink's port on the bridge; unknown while no bridge is connected."""

    UP = "up"
    DOWN = "down"
    ABSENT = "absent"
    UNKNOWN = "unknown"


class PathState(StrEnum):
    """Whether a path carries packets both ways; unknown where probes cannot tell."""

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
    """A path from one of the site's uplinks to one of a peer's.

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
class DifferingFile:
    """A site with another federation file than this one; ``since`` when it was heard with it.

    ``file`` is its digest (``fedsdn.config.differences``). The site may be one that our file
    does not have. In a status ``since`` is in Unix time.
    """

    site: str
    file: str
    since: float


@dataclass(frozen=True, slots=True)
class RefusedProbes:
    """How many datagrams were not taken for probes since the application was started, and why.

    ``site`` is in whose name they were signed, or where they came from; empty if no site's.
    """

    site: str
    why: str
    number: int


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """All uplinks and paths of a site. ``written`` is in Unix time.

    ``file`` is the digest of the federation file that its application follows, ``differing``
    has the sites that were heard last with another one. ``refused`` counts datagrams.
    """

    site: str
    written: float
    uplinks: tuple[UplinkStatus, ...]
    paths: tuple[PathStatus, ...]
    file: str = ""
    differing: tuple[DifferingFile, ...] = ()
    refused: tuple[RefusedProbes, ...] = ()

    @property
    def dead(self) -> frozenset[str]:
        """Uplinks of which every path is down; they need no endpoint."""
        alive = {path.uplink for path in self.paths if path.state is not PathState.DOWN}
        return frozenset(path.uplink for path in self.paths) - alive


def write_status(status: SiteStatus, path: Path = STATUS_FILE) -> None:
    """Replace the status file, atomically.

    Raises:
        OSError: it cannot be written.

    """
    files.write(path, msgspec.json.encode(status))


def keep_status(path: Path = STATUS_FILE) -> None:
    """Say that what the status file holds is true now.

    Raises:
        OSError: there is none.

    """
    os.utime(path)


def read_status(path: Path = STATUS_FILE) -> SiteStatus | None:
    """Read the status; None if there is none, or only one of an application that has ended.

    Raises:
        FedsdnError: the application is of another version.

    """
    try:
        kept = path.stat().st_mtime
        return parse_status(path.read_text(errors="replace"), time.time() - kept)
    except OSError:
        return None


def parse_status(text: str, age: float) -> SiteStatus | None:
    """Read the text of a status file, as ``read_status``, that was kept ``age`` seconds ago."""
    try:
        found = json.loads(text)
        _ = found["written"]
    except (ValueError, KeyError, TypeError):
        return None
    return status_from(found) if abs(age) < STALE_SECONDS else None


def status_from(found: dict[str, Any]) -> SiteStatus:
    """Read a status as ``asdict`` writes it.

    Raises:
        FedsdnError: it is one of another version of fedsdn.

    """
    try:
        msgspec.convert(found, SiteStatus)  # the types of all values
        uplinks = (
            UplinkStatus(**{**one, "port": PortState(one["port"])}) for one in found["uplinks"]
        )
        paths = (PathStatus(**{**one, "state": PathState(one["state"])}) for one in found["paths"])
        differing = (DifferingFile(**one) for one in found["differing"])
        refused = (RefusedProbes(**one) for one in found["refused"])
        read = {
            "uplinks": tuple(uplinks),
            "paths": tuple(paths),
            "differing": tuple(differing),
            "refused": tuple(refused),
        }
        return SiteStatus(**{**found, **read})
    except (KeyError, TypeError, ValueError) as error:
        raise FedsdnError(
            "the application's status is one of another version of fedsdn: restart it "
            "(systemctl restart fedsdn-app) with the version of this command"
        ) from error
