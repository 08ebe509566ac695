"""Coroutine tests that run in a network namespace of their module's own."""

from __future__ import annotations

import asyncio
import functools
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from fedsdn.namespace import inside
from tests.unit.loopback import LIMIT_SECONDS

Test = Callable[..., Coroutine[Any, Any, None]]


@contextmanager
def namespace_with(set_up: str) -> Iterator[str]:
    """Have a network namespace, set up by a shell script; yield its name."""
    name = f"test-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "netns", "exec", name, "sh", "-ec", set_up], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def inside_namespace(test: Test) -> Callable[..., None]:
    """Run a test in an event loop of its own, in the namespace that its ``ground`` names."""

    async def limited(arguments: dict[str, object]) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            await test(**arguments)

    @functools.wraps(test)
    def run(**arguments: object) -> None:
        inside(str(arguments["ground"]), lambda: asyncio.run(limited(arguments)))

    return run
