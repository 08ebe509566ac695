"""The file that says which site this host was set up as: made first by ``up``, removed last."""

from __future__ import annotations

import json
from pathlib import Path

from fedsdn.errors import FedsdnError

RUN_DIRECTORY = Path("/run/fedsdn")
"""Directory of everything that a running site keeps in files."""

RECORD = RUN_DIRECTORY / "site.json"


def read() -> str | None:
    """Return the name of the site that this host was set up as, None if it was not."""
    try:
        text = RECORD.read_text()
    except FileNotFoundError:
        return None
    try:
        return str(json.loads(text)["site"])
    except (ValueError, KeyError, TypeError) as error:
        raise FedsdnError(
            f'{RECORD} is not what \'fedsdn site up\' writes: write {{"site": "NAME"}} into it '
            "with the name of this site, and run 'fedsdn site down'"
        ) from error


def write(site: str) -> bool:
    """Say that this host is set up as ``site``; return whether that is new."""
    text = json.dumps({"site": site}) + "\n"
    if RECORD.exists() and RECORD.read_text() == text:
        return False
    RUN_DIRECTORY.mkdir(parents=True, exist_ok=True)
    fresh = RECORD.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(RECORD)
    return True


def remove() -> bool:
    """Remove the record, and its directory if nothing else is in it; say whether it was there."""
    if not RECORD.exists():
        return False
    RECORD.unlink()
    if not any(RUN_DIRECTORY.iterdir()):
        RUN_DIRECTORY.rmdir()
    return True
