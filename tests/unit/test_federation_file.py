"""Following the file and the bridge's ports, with a database that this test answers for."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedsdn.config.loader import dump_federation
from fedsdn.config.model import Federation
from fedsdn.config.watch import WatchedFederation
from fedsdn.controller import federation_file
from fedsdn.controller.federation_file import FederationFile
from fedsdn.ovs.local_vlans import Bridges
from fedsdn.pipeline.build import Groups
from fedsdn.shell import Shell
from tests.unit.federations import two_sites


def test_ports_that_change_while_the_database_is_read_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been read is older than the news."""
    reads = 0

    async def follow(_federation: Federation, _groups: Groups) -> None:
        pass

    async def scenario() -> None:
        loop, second = asyncio.get_running_loop(), asyncio.Event()

        def read_bridges(_shell: Shell, _name: str) -> Bridges:
            nonlocal reads
            reads += 1
            if reads == 1:
                asyncio.run_coroutine_threadsafe(change(), loop).result()
            else:
                loop.call_soon_threadsafe(second.set)
            return {}

        async def change() -> None:
            file.ports_changed()

        monkeypatch.setattr(federation_file, "read_bridges", read_bridges)
        monkeypatch.setattr(federation_file, "ambiguity", lambda _site, _bridges: None)
        monkeypatch.setattr(federation_file, "flows_among", lambda *_: _NoFlows)
        with ThreadPoolExecutor(1) as executor:
            file = FederationFile(watched, "a", follow, executor)
            task = asyncio.create_task(file.run())
            async with asyncio.timeout(30):
                await second.wait()
            task.cancel()

    path = tmp_path / "federation.yaml"
    path.write_text(dump_federation(two_sites()))
    watched = WatchedFederation(path, "a", lambda _federation: None)
    asyncio.run(scenario())


class _NoFlows:
    groups: Groups = {}  # noqa: RUF012
