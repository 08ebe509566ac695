"""Two federation files have one fingerprint if they mean the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedsdn.config.fingerprint import DIGITS, fingerprint
from fedsdn.config.loader import dump_federation, load_federation
from fedsdn.config.model import Federation, Probes
from tests.unit.federations import PROBES, three_sites, two_sites, with_source_restore


def turned_round(federation: Federation) -> Federation:
    sites = tuple(
        replace(site, prefixes=site.prefixes[::-1], uplinks=site.uplinks[::-1])
        for site in federation.sites[::-1]
    )
    return replace(federation, sites=sites)


def test_order_comments_and_the_probes_key_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "federation.yaml"
    file.write_text("# a comment\n" + dump_federation(turned_round(two_sites())))
    other_key = replace(PROBES, key="another key, of which nothing is to be told")
    for same in (load_federation(file), replace(two_sites(), probes=other_key)):
        assert fingerprint(same) == fingerprint(two_sites())
    assert len(fingerprint(two_sites())) == DIGITS


@pytest.mark.parametrize(
    "other",
    [
        three_sites(),
        replace(two_sites(), proxy_port=1081),
        replace(two_sites(), probes=None),
        replace(two_sites(), probes=Probes(PROBES.key, interval=0.2)),
        with_source_restore(two_sites(), "nat"),
    ],
)
def test_what_means_something_else_has_another(other: Federation) -> None:
    assert fingerprint(other) != fingerprint(two_sites())
