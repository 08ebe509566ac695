"""The subflows in a proxy's namespace, read there by a program that runs beside a measurement.

It is started before, so that nothing but the reading itself falls into what is measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from fedsdn.config.model import Address
from fedsdn.errors import FedsdnError
from fedsdn.mptcp.subflows import Subflows
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.shell import Started
from fedsdn.verify.view import SiteView

_BUSY = "busy"
_BUSY_BYTES = 1_000_000
"""A subflow that has sent less is not the fast connection's, but that of an idle one."""


@dataclass(frozen=True, slots=True)
class BusySubflow:
    """A subflow by which a site's proxy sends much; ``rtt_ms`` is the smoothed round-trip time."""

    local: Address
    rtt_ms: float


class SubflowReader:
    """Reads the established subflows of one site."""

    def __init__(self, program: Started) -> None:
        """Ask ``program``, which runs ``main`` at the site."""
        self._program = program

    def busy(self) -> list[BusySubflow]:
        """Return the subflows by which the site's proxy sends much.

        Raises:
            FedsdnError: they cannot be read.

        """
        return [BusySubflow(ip_address(local), rtt_ms) for local, rtt_ms in self._ask(_BUSY)]

    def count(self, local: Address) -> int:
        """Count the subflows from an address.

        Raises:
            FedsdnError: they cannot be read.

        """
        return int(self._ask(str(local)))

    def _ask(self, question: str) -> Any:  # noqa: ANN401 -- JSON
        line = self._program.ask(question)
        if not line:
            self._program.finish()  # says why
            raise FedsdnError(f"{self._program.name} ended")
        return json.loads(line)


@contextmanager
def reading(view: SiteView) -> Iterator[SubflowReader]:
    """Have subflows read at a site while the block runs.

    Raises:
        FedsdnError: the site cannot be entered.

    """
    with view.shell.started(*view.shell.module("fedsdn.bench.subflows")) as program:
        yield SubflowReader(program)


def main() -> None:
    """Answer each line of the standard input with one of JSON."""
    with Subflows(PROXY_NAMESPACE) as subflows:
        for line in sys.stdin:
            question = line.strip()
            if question == _BUSY:
                answer: object = [
                    (str(one.local), one.rtt_ms)
                    for one in subflows.read()
                    if one.bytes_sent >= _BUSY_BYTES
                ]
            else:
                answer = subflows.count(ip_address(question))
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
