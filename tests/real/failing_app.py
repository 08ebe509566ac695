"""``osken-manager fedsdn.app`` with a fault: on SIGUSR1 one part meets an unexpected exception.

Arguments: the part's name, and then those of osken-manager.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from typing import Any, NoReturn

from fedsdn import launcher
from fedsdn.app import FederationApp
from fedsdn.channel.server import Channel
from fedsdn.controller.controller import Controller
from fedsdn.controller.federation_file import FederationFile
from fedsdn.controller.upkeep import Upkeep
from fedsdn.openflow.bridge_socket import _Stream
from fedsdn.openflow.reconciler import Reconciler
from fedsdn.openflow.restorer import Restorer
from fedsdn.uplinks.kernel import Kernel
from fedsdn.uplinks.monitor import UplinkMonitor

TASKS: dict[str, type[Any]] = {
    "federation file": FederationFile,
    "reconciler": Reconciler,
    "restorer": Restorer,
    "channel": Channel,
    "uplinks": UplinkMonitor,
    "namespace": Upkeep,
}
CALLS: dict[str, tuple[type[Any], str]] = {
    "a callback of the loop": (Controller, "answered"),
    "the executor": (Kernel, "obey"),
    "os-ken's event thread": (FederationApp, "answered"),
    "os-ken's connection thread": (_Stream, "recv"),
}
"""What is called again and again, or with news of a flow."""

LEAVING = "taking leave"
"""Nobody has to tell this part to fail."""

PARTS = (*TASKS, *CALLS)
_told = threading.Event()


def inject() -> NoReturn:
    print(f"raised at {time.monotonic()}", file=sys.stderr, flush=True)
    raise ZeroDivisionError("injected")


def break_task(kind: type[Any]) -> None:
    run = kind.run

    async def failing(self: object) -> None:
        task = asyncio.ensure_future(run(self))
        while not _told.is_set():
            await asyncio.wait([task], timeout=0.01)
        inject()

    kind.run = failing


def break_call(kind: type[Any], name: str) -> None:
    before = getattr(kind, name)

    def failing(*arguments: object, **more: object) -> object:
        if _told.is_set():
            inject()
        return before(*arguments, **more)

    for attribute in getattr(before, "__dict__", ()):  # os-ken's marks
        setattr(failing, attribute, getattr(before, attribute))
    setattr(kind, name, failing)


if __name__ == "__main__":
    part = sys.argv.pop(1)
    if part in TASKS:
        break_task(TASKS[part])
    elif part == LEAVING:
        _told.set()
        break_call(FederationApp, "close")
    else:
        break_call(*CALLS[part])
    signal.signal(signal.SIGUSR1, lambda *_: _told.set())
    launcher.main()
