"""The host's record: who takes a site down waits for the application, and not for ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsdn.errors import FedsdnError
from fedsdn.site import locks, record

BRIDGE = "br-provider"


@pytest.fixture(autouse=True)
def _host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a host of its own that is set up as site a."""
    monkeypatch.setattr(record, "RUN_DIRECTORY", tmp_path)
    monkeypatch.setattr(record, "RECORD", tmp_path / "site.json")
    monkeypatch.setattr(record, "_LEAVING", tmp_path / "site.leaving")
    (tmp_path / "site.json").write_text(json.dumps({"site": "a", "bridge": BRIDGE}))
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.1)


def may_steer() -> bool:
    with record.steering("a", BRIDGE) as allowed:
        return allowed


def test_a_halted_application_is_named_and_not_waited_for_for_ever() -> None:
    halted = pytest.raises(FedsdnError, match=r"^the application .*systemctl stop fedsdn-app")
    with record.steering("a", BRIDGE), halted:
        record.stop_steering()
    assert may_steer(), "nothing was taken down"


def test_nobody_steers_after_its_end_until_site_up() -> None:
    record.stop_steering()
    assert not may_steer()
    record.let_steer()
    assert may_steer()


def test_a_host_that_is_not_set_up_needs_no_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "RUN_DIRECTORY", tmp_path / "none")
    record.stop_steering()
    assert not may_steer()
