"""The file that says which site this host was set up as: made first by ``up``, removed last."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from fedsdn import files
from fedsdn.errors import FedsdnError
from fedsdn.site import locks
from fedsdn.site.plan import SitePlan
from fedsdn.site.values import BridgeFacts

RUN_DIRECTORY = Path("/run/fedsdn")
"""Directory of everything that a running site keeps in files."""

RECORD = RUN_DIRECTORY / "site.json"
PROXY_LOCK = RUN_DIRECTORY / "proxy.lock"
"""Locked by the proxy as long as one of its processes runs."""

_LEAVING = RUN_DIRECTORY / "site.leaving"


def read() -> str | None:
    """Return the name of the site that this host was set up as, None if it was not.

    Raises:
        FedsdnError: the record is damaged.

    """
    try:
        return str(json.loads(RECORD.read_bytes())["site"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise FedsdnError(
            f'{RECORD} is not what \'fedsdn site up\' writes: write {{"site": "NAME"}} into it '
            "with the name of this site, and run 'fedsdn site down'"
        ) from error


def uplinks() -> tuple[str, ...]:
    """Return the names of the uplinks' ports, as the last ``up`` found them in its file."""
    if read() is None:
        return ()
    return tuple(json.loads(RECORD.read_text()).get("uplinks", ()))


def write(plan: SitePlan) -> bool:
    """Say that this host is set up by ``plan``; return whether that is new.

    ``down`` needs no federation file, and whoever puts back what others change knows from it which
    plan that is.
    """
    found = {
        "site": plan.site,
        "bridge": plan.bridge,
        "uplinks": plan.uplink_ports,
        "facts": asdict(plan.facts),
        "plan": plan.digest,
    }
    text = json.dumps(found) + "\n"
    if RECORD.exists() and RECORD.read_text() == text:
        return False
    files.write(RECORD, text.encode())
    return True


def applied() -> tuple[BridgeFacts, str] | None:
    """Return what the last ``up`` found of the bridge, and the digest of the plan it began with.

    None: there is no such record, or one of another version of fedsdn.
    """
    try:
        found = json.loads(RECORD.read_bytes())
        return BridgeFacts(**found["facts"]), str(found["plan"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def steering(site: str, bridge: str) -> Iterator[bool]:
    """Say whether the application may change the flows of ``bridge`` now.

    It may while this host is set up as ``site`` on that bridge.

    While the block runs, ``stop_steering`` waits.
    """
    with _directory() as directory:
        if directory is not None:
            fcntl.flock(directory, fcntl.LOCK_SH)
        yield directory is not None and not _LEAVING.exists() and _is(site, bridge)


def stop_steering() -> None:
    """Have the application leave the bridge's flows alone from now on: ``down`` removes them.

    Raises:
        FedsdnError: the application does not come to the end of what it does there.

    """
    with _directory() as directory:
        if directory is None:
            return
        if not locks.flock_alone(directory):
            raise FedsdnError(
                "the application has been changing flows or the proxy's namespace for "
                f"{locks.PATIENCE_SECONDS:g} s, as if it were halted: stop it "
                "(systemctl stop fedsdn-app), and run 'fedsdn site down' again"
            )
        _LEAVING.touch(mode=0o600)


def let_steer() -> None:
    """Take back what ``stop_steering`` said."""
    _LEAVING.unlink(missing_ok=True)


@contextmanager
def _directory() -> Iterator[int | None]:
    """Open the directory, on which the application and ``down`` have locks; None without one."""
    try:
        directory = os.open(RUN_DIRECTORY, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield directory
    finally:
        os.close(directory)


def _is(site: str, bridge: str) -> bool:
    try:
        found = json.loads(RECORD.read_text())
        return (found["site"], found["bridge"]) == (site, bridge)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove() -> bool:
    """Remove the record, and its directory if nothing else is in it; say whether it was there."""
    if not RECORD.exists():
        let_steer()
        return False
    RECORD.unlink()
    let_steer()
    if not any(RUN_DIRECTORY.iterdir()):
        RUN_DIRECTORY.rmdir()
    return True
