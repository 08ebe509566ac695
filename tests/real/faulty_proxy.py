"""A proxy one of whose workers has a fault: ``python -m tests.real.faulty_proxy PART DIRECTORY``.

It is what ``fedsdn proxy run`` runs, in the network namespace that it is started in. PART fails a
moment after the first worker has started; that worker's successor is well. Log lines begin with the
time. Ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

from fedsdn.channel.client import ChannelClient
from fedsdn.config.loader import dump_federation
from fedsdn.pipeline.declarations import HELD_DEVICE
from fedsdn.proxy.opening.device import HeldQueue
from fedsdn.proxy.process import worker, workers
from fedsdn.proxy.process.listener import Listener
from fedsdn.proxy.process.parts import Parts
from fedsdn.proxy.process.settings import Settings
from fedsdn.proxy.relay.poller import Poller
from fedsdn.proxy.sockets.path_manager import PathManager
from fedsdn.site import tun
from tests.unit.federations import two_sites, write_identity

REASON = "a fault that a test has put in"
STARTED = "this worker will fail"
FAILING = "this worker fails now"
_SECONDS = 0.3

_LOG = logging.getLogger("faulty")


def fail() -> NoReturn:
    _LOG.warning(FAILING)
    raise RuntimeError(REASON)


async def fail_soon(*_: object) -> NoReturn:
    await asyncio.sleep(_SECONDS)
    fail()


async def return_soon(*_: object) -> None:
    await asyncio.sleep(_SECONDS)
    _LOG.warning(FAILING)


def replaced(owner: object, name: str, work: object) -> Callable[[], object]:
    return patch.object(owner, name, work).start


def after_the_start(act: Callable[[worker._Worker], object]) -> Callable[[], object]:
    start = worker._Worker.start

    def start_and_act(self: worker._Worker, parts: Parts) -> None:
        start(self, parts)
        act(self)

    return replaced(worker._Worker, "start", start_and_act)


def fail_in_a_callback(_: worker._Worker) -> None:
    asyncio.get_running_loop().call_later(_SECONDS, fail)


def fail_in_a_reload(one: worker._Worker) -> None:
    patch.object(one, "_reload", fail_soon).start()
    one._parts.once("reload", one._reload())


FAULTS: dict[str, Callable[[], object]] = {
    "poller": replaced(Poller, "run", fail_soon),
    "queue of SYNs": replaced(HeldQueue, "run", fail_soon),
    "path manager": replaced(PathManager, "run", fail_soon),
    "channel": replaced(ChannelClient, "_converse", fail_soon),
    "listener for": replaced(Listener, "run", fail_soon),
    "event loop": after_the_start(fail_in_a_callback),
    "reload": after_the_start(fail_in_a_reload),
    "path manager ended": replaced(PathManager, "run", return_soon),
}


def main() -> None:
    part, directory = sys.argv[1], Path(sys.argv[2])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    tun.make(HELD_DEVICE)
    logging.basicConfig(level=logging.INFO, format="%(created)f %(message)s")
    file = directory / "federation.yaml"
    file.write_text(dump_federation(two_sites()))
    write_identity(directory, "a")
    run = worker.run

    async def run_with_a_fault(*arguments: object) -> None:
        try:
            (directory / "failed").touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            _LOG.warning(STARTED)
            FAULTS[part]()
        await run(*arguments)  # type: ignore[arg-type]

    site = two_sites().sites[0].name
    with (
        patch.object(worker, "CHANNEL_SOCKET", directory / "channel.sock"),
        patch.object(worker, "run", run_with_a_fault),
    ):
        workers.run(
            Settings(site, file, 1, 0.1, "none", directory / "identity"), directory / "proxy.sock"
        )


if __name__ == "__main__":
    main()
