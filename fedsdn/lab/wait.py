"""Waiting for a condition, with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable

from fedsdn.errors import FedsdnError

POLL_SECONDS = 0.05


def wait_until(condition: Callable[[], bool], seconds: float, missing: Callable[[], str]) -> None:
    """Wait until ``condition`` is true.

    Raises:
        FedsdnError: it is still false after ``seconds``; the message is what ``missing`` returns.

    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise FedsdnError(missing())
        time.sleep(POLL_SECONDS)
