"""The packet filter follows the federation's rules, however often that fails."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from fedsdn.config.model import Federation, Site
from fedsdn.controller import rules
from fedsdn.controller.rules import Rules
from fedsdn.errors import FedsdnError
from fedsdn.site import firewall
from tests.unit.federations import two_sites


def test_rules_that_the_filter_refuses_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Federation] = []
    done = threading.Event()

    def apply_rules(_name: str, federation: Federation, _site: Site) -> bool:
        tried.append(federation)
        if len(tried) < 3:
            raise FedsdnError("nft does not end within 20 s")
        done.set()
        return True

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as executor:
            task = asyncio.create_task(Rules("fedsdn", "a", two_sites, executor).run())
            assert await asyncio.to_thread(done.wait, 30)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    monkeypatch.setattr(rules, "_AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(firewall, "apply_rules", apply_rules)
    asyncio.run(scenario())
    assert tried == [two_sites()] * 3
