"""The federation file of a running process: read at the start, and again when it changes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from copy import copy
from pathlib import Path

from fedsdn.config.model import Federation
from fedsdn.config.sections import FederationReader
from fedsdn.errors import FedsdnError

_LOG = logging.getLogger(__name__)

Check = Callable[[Federation], None]
"""Raises FedsdnError if the host cannot be what the file says of its site."""

_Version = tuple[int, int, int] | None


class WatchedFederation:
    """The federation in force. A bad change is logged, and the federation stays as it was."""

    def __init__(self, path: Path, site: str, check: Check = lambda _: None) -> None:
        """Read the file. ``check`` decides for each change whether this host can follow it.

        Raises:
            FedsdnError: the file is bad, or has no such site.

        """
        self._path = path
        self._reader = FederationReader(path)
        self._site = site
        self._check = check
        self._refused = ""
        """The error of the last change, if that is not in force."""
        self._waiting: Federation | None = None
        """A good file that the host could not follow yet."""
        self._version = self._version_on_disk()
        self.current = self._read()

    def unchecked(self) -> WatchedFederation:
        """Return a copy without the check, for a process whose parent has made it."""
        other = copy(self)
        other._check = lambda _: None
        return other

    def refresh(self, *, force: bool = False) -> bool:
        """Read the file again if it changed (or ``force``); True if there is a new federation.

        A change that the host could not follow is checked again at every call: the host may change.
        A bad file is not read again until it changes.
        """
        version = self._version_on_disk()
        unread = force or version != self._version
        if not unread and self._waiting is None:
            return False
        federation, self._waiting = self._waiting, None
        try:
            if unread or federation is None:
                federation = self._read()
            changed = federation != self.current
            if changed:
                self._waiting = federation
                self._check(federation)
        except FedsdnError as error:
            said = f"{error}; keeping the federation as it was"
            if said != self._refused or version != self._version:
                _LOG.error("%s", said)
            self._version, self._refused = version, said
            return False
        self._version, self._refused, self._waiting = version, "", None
        self.current = federation
        return changed

    def _read(self) -> Federation:
        federation = self._reader.read()
        federation.local_site(self._site)
        return federation

    def _version_on_disk(self) -> _Version:
        try:
            stat = os.stat(self._path)
        except OSError:
            return None
        return stat.st_ctime_ns, stat.st_ino, stat.st_size  # permissions count, too
