"""Commands that refresh what they show until Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TypeVar

from rich.live import Live

from fedsdn.cli.tables import TextTable, as_drawn, print_blocks
from fedsdn.errors import FedsdnError

_REFRESH_SECONDS = 1.0

State = TypeVar("State")


def check_options(*, watch: bool, as_json: bool) -> None:
    """Refuse ``--watch`` beside ``--json``.

    Raises:
        FedsdnError: both are given.

    """
    if watch and as_json:
        raise FedsdnError("--json prints one document: leave out --watch")


def watch_blocks(
    collect: Callable[[], State],
    blocks: Callable[[State, State, float], Sequence[TextTable | str]],
) -> None:
    """Collect and show every second, until Ctrl-C; on a terminal in place.

    ``blocks`` is given this state, the one before, and the seconds between the two.
    """
    before, then = collect(), time.monotonic()
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        live = stack.enter_context(Live(auto_refresh=False)) if sys.stdout.isatty() else None
        while True:
            time.sleep(_REFRESH_SECONDS)
            now, taken = collect(), time.monotonic()
            shown = blocks(now, before, taken - then)
            before, then = now, taken
            if live is not None:
                live.update(as_drawn(shown), refresh=True)
            else:
                print_blocks(shown)
                sys.stdout.flush()
