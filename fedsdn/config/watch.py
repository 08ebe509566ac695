"""The federation file of a running process: read at the start, and again when it changes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from fedsdn.config.loader import load_federation
from fedsdn.config.model import Federation
from fedsdn.errors import FedsdnError

_LOG = logging.getLogger(__name__)

_Version = tuple[int, int, int] | None


class WatchedFederation:
    """The federation in force. A changed file that is bad is logged, and the old one kept."""

    def __init__(self, path: Path, site: str) -> None:
        """Read the file.

        Raises:
            FedsdnError: the file is bad, or has no such site.

        """
        self._path = path
        self._site = site
        self._version = self._version_on_disk()
        self.current = self._read()

    def refresh(self, *, force: bool = False) -> bool:
        """Read the file again if it changed (or ``force``); True if there is a new federation."""
        version = self._version_on_disk()
        if version == self._version and not force:
            return False
        self._version = version
        try:
            federation = self._read()
        except FedsdnError as error:
            _LOG.error("%s; keeping the federation as it was", error)
            return False
        changed = federation != self.current
        self.current = federation
        return changed

    def _read(self) -> Federation:
        federation = load_federation(self._path)
        federation.local_site(self._site)
        return federation

    def _version_on_disk(self) -> _Version:
        try:
            stat = os.stat(self._path)
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size
