"""A flow tells where it comes from."""

from __future__ import annotations

import random
from pathlib import Path

import fedsdn
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.cookie import origin
from fedsdn.pipeline.declarations import COOKIE_OWNER
from tests.unit.federations import three_sites

PACKAGE = Path(fedsdn.__file__).parent


def test_every_flow_names_its_site_feature_and_source_line() -> None:
    for site in three_sites().sites:
        for flow in pipeline_flows(three_sites(), site.name):
            found = origin(flow.cookie)
            assert found is not None
            assert found.site_name(three_sites()) == site.name
            file, line = found.source.split(":")
            source = (PACKAGE / file).read_text().splitlines()[int(line) - 1]
            assert "context.flow(" in source or "context.default(" in source, found.source


def test_foreign_cookies_are_not_ours() -> None:
    assert origin(0) is None
    ours = pipeline_flows(three_sites(), "a")[0].cookie
    assert [bit for bit in range(64) if origin(ours ^ 1 << bit) is not None] == []
    assert origin(COOKIE_OWNER) is None
    assert origin(COOKIE_OWNER | 0x7C87_0002_0032) is None, "without the check"


def test_cookies_that_merely_begin_like_ours_are_not_ours() -> None:
    """Neutron's agent draws one from all 64 bits at each start."""
    draw = random.Random(17)  # noqa: S311 -- to be repeated, not secret
    drawn = [COOKIE_OWNER | draw.getrandbits(48) for _ in range(100_000)]
    assert sum(origin(cookie) is not None for cookie in drawn) < 5
