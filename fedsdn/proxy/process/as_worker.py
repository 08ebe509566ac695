"""Looking, before there are workers, whether they will be able to do what they have to."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

from fedsdn.errors import FedsdnError, FinalError
from fedsdn.users import PROXY_USER, become_worker


def check_as_worker(check: Callable[[], None]) -> None:
    """Run ``check`` in a process of its own that is the workers' user, with their rights.

    No other process can tell what that user may read: root may read other things, in its unit
    fewer ones too.

    Raises:
        FinalError: ``check`` raises an error of ours, or may not read something.

    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _answer(writing, check)
    os.close(writing)
    with open(reading, "rb") as answer:
        wrong = answer.read().decode()
    _, status = os.waitpid(child, 0)
    if wrong or status:
        raise FinalError(wrong or "the proxy cannot look at its keys: the process has ended")


def _answer(writing: int, check: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        become_worker()
        os.write(writing, _wrong_with(check).encode())
        status = 0
    finally:
        os._exit(status)


def _wrong_with(check: Callable[[], None]) -> str:
    try:
        check()
    except (FedsdnError, OSError) as error:
        denied = error if isinstance(error, OSError) else error.__cause__
        if isinstance(denied, PermissionError) and denied.filename:
            return (
                f"{denied.filename}: the proxy's workers (user {PROXY_USER}) may not read it: "
                f"'namei -l {denied.filename}' shows which directory others may not go through "
                "('chmod 711' it), or whose file it is"
            )
        return str(error)
    return ""
