"""A row tells where it comes from."""

from __future__ import annotations

from pathlib import Path

import fedsdn
from fedsdn.pipeline.build import pipeline_rows
from fedsdn.pipeline.cookie import origin
from fedsdn.pipeline.declarations import Feature
from tests.unit.federations import three_sites

PACKAGE = Path(fedsdn.__file__).parent


def test_every_row_names_its_site_feature_and_source_line() -> None:
    for site in three_sites().sites:
        for row in pipeline_rows(three_sites(), site.name):
            found = origin(row.cookie)
            assert found is not None
            assert found.site_name(three_sites()) == site.name
            file, line = found.source.split(":")
            source = (PACKAGE / file).read_text().splitlines()[int(line) - 1]
            assert "context.row(" in source or "context.default(" in source, found.source


def test_foreign_cookies_are_not_ours() -> None:
    assert origin(0) is None
    assert origin(0xFED4_0000_0001_0001) is None
    unknown_feature = 0xFED5 << 48 | (max(Feature) + 1) << 16 | 1
    assert origin(unknown_feature) is None
