"""The ``osken-manager`` command ends as a whole, whatever fails."""

from __future__ import annotations

import logging
import os
import sys
from unittest.mock import MagicMock

import pytest

from fedsdn import launcher
from fedsdn.errors import FINAL_STATUS, FinalError


class EndedError(BaseException):
    """The process would have ended with a status."""


@pytest.fixture(autouse=True)
def no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(status: int) -> None:
        raise EndedError(status)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    monkeypatch.setattr(sys, "argv", ["osken-manager", "fedsdn.app"])


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("a fault"), 1), (FinalError("no file"), FINAL_STATUS)]
)
def test_what_the_main_thread_fails_with_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
) -> None:
    monkeypatch.setattr(launcher, "_run", MagicMock(side_effect=error))
    with pytest.raises(EndedError) as ended:
        launcher.main()
    assert ended.value.args == (status,)
    assert str(error) in caplog.text + capsys.readouterr().err


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("closed"), RuntimeError()])
def test_what_cannot_be_written_does_not_keep_it_from_ending(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(sys, "stdout", MagicMock(**{"flush.side_effect": error}))
    with pytest.raises(EndedError) as ended:
        launcher._leave(3)
    assert ended.value.args == (3,)
