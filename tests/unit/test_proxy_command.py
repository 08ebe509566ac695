"""What 'fedsdn proxy reload' says of a proxy that has reloaded."""

from __future__ import annotations

import os
import time

import pytest

from fedsdn.cli import proxy
from fedsdn.proxy.stats import Statistics


def test_a_reload_succeeds_although_a_worker_ended_lately(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    statistics = Statistics(2)
    statistics.running, statistics.leaving = 2, 1
    statistics.restarts, statistics.last_restart = 1, time.time()
    reloads = iter([(0, 0), (1, 0)])
    monkeypatch.setattr(proxy, "check_namespace", lambda _name: None)
    monkeypatch.setattr(proxy, "running_process", os.getpid)
    monkeypatch.setattr(os, "kill", lambda _process, _signal: None)
    monkeypatch.setattr(proxy, "read_reloads", lambda: next(reloads))
    monkeypatch.setattr(proxy, "read_statistics", statistics.totals)
    proxy.reload()
    said = "reloaded: 2 workers, 1 of before a reload carry on what they have\n"
    assert capsys.readouterr().out == said
