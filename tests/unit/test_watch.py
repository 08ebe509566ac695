"""The federation file of a running process, and what its host refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsdn.config import watch
from fedsdn.config.loader import dump_federation
from fedsdn.config.model import Federation
from fedsdn.config.sections import FederationReader
from fedsdn.config.watch import WatchedFederation
from fedsdn.errors import FedsdnError
from tests.unit.federations import three_sites, two_sites


def test_what_the_host_refuses_waits_until_it_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trouble = ["port up3 is missing"]

    def check(federation: Federation) -> None:
        assert federation == three_sites()
        if trouble:
            raise FedsdnError(trouble[0])

    file = tmp_path / "federation.yaml"
    file.write_text(dump_federation(two_sites()))
    watched = WatchedFederation(file, "a", check)
    assert not watched.refresh(force=True), "what is in force is not asked about"
    file.write_text(dump_federation(three_sites()))
    assert not watched.refresh()
    assert not watched.refresh()
    assert watched.current == two_sites()
    assert [record.message for record in caplog.records] == [
        "port up3 is missing; keeping the federation as it was"
    ]
    trouble[0] = "port up3 is down"
    assert not watched.refresh()
    assert caplog.messages[1:] == ["port up3 is down; keeping the federation as it was"]
    trouble.clear()
    assert watched.refresh()
    assert watched.current == three_sites()
    assert not watched.refresh()


def test_a_bad_file_is_read_again_only_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large one would keep the application busy."""
    reads = []

    class Counted(FederationReader):
        def read(self) -> Federation:
            reads.append(self)
            return super().read()

    monkeypatch.setattr(watch, "FederationReader", Counted)
    file = tmp_path / "federation.yaml"
    file.write_text(dump_federation(two_sites()))
    watched = WatchedFederation(file, "a")
    file.write_text("sites: {}")
    assert [watched.refresh() for _ in range(3)] == [False] * 3
    assert len(reads) == 2
    assert not watched.refresh(force=True)
    assert len(reads) == 3
    assert len(caplog.messages) == 1
    file.write_text(dump_federation(three_sites()))
    assert watched.refresh()
    assert watched.current == three_sites()


def test_a_file_that_could_not_be_read_is_read_when_it_is_back(tmp_path: Path) -> None:
    file = tmp_path / "federation.yaml"
    file.write_text(dump_federation(two_sites()))
    watched = WatchedFederation(file, "a")
    file.rename(tmp_path / "aside")
    file.mkdir()  # to root, nothing else is unreadable
    assert not watched.refresh()
    file.rmdir()
    (tmp_path / "aside").write_text(dump_federation(three_sites()))
    (tmp_path / "aside").rename(file)
    assert watched.refresh()
    assert watched.current == three_sites()
