"""The federation file of a running process, and what its host refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsdn.config.loader import dump_federation
from fedsdn.config.model import Site
from fedsdn.config.watch import WatchedFederation
from fedsdn.errors import FedsdnError
from tests.unit.federations import three_sites, two_sites


def test_what_the_host_refuses_waits_until_it_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trouble = ["port up3 is missing"]

    def check(site: Site) -> None:
        assert site.name == "a"
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
    trouble.clear()
    assert watched.refresh()
    assert watched.current == three_sites()
    assert not watched.refresh()
