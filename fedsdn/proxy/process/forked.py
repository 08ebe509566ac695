"""A process that the parent has forked: it is a worker until it ends."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fedsdn.errors import FedsdnError
from fedsdn.users import become_worker

_LOG = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


def be_worker(number: int, parent: int, begin: Callable[[], Coroutine[Any, Any, None]]) -> NoReturn:
    """Run, in this process, which ``parent`` has forked, what ``begin`` returns, and end."""
    status = 1
    try:
        become_worker()
        _die_with(parent)  # which the kernel forgets when the user changes
        # The runner is not closed: it would wait for connections, which end with the process.
        asyncio.Runner().run(begin())
        status = 0
    except (OSError, FedsdnError) as error:
        _say_end(number, str(error))
    except ExceptionGroup as group:
        why = "; ".join(str(failure) for failure in group.exceptions)
        _say_end(number, f"{why}\n{''.join(traceback.format_exception(group))}")
    except BaseException:
        _say_end(number, traceback.format_exc())
    finally:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(status)


def _say_end(number: int, why: str) -> None:
    """Say why this worker ends; that is often only as far as workers are started again."""
    _LOG.error("worker %d ends: %s", number, why)


def _die_with(parent: int) -> None:
    """End with the parent, even if that is killed (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
