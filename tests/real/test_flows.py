"""flows/ says what running bridges have, for every topology."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsdn.lab import build
from fedsdn.lab.lab import Lab
from flows.generate import DOCUMENT, document, dumps, topologies
from tests.real.conftest import TWO_SITE

pytestmark = pytest.mark.real
REMEDY = "run 'make flows' and read the difference"


def dumps_of(topology: Path, lab: Lab) -> dict[Path, str]:
    """Dumps of a lab of its own, unless there is one of this topology already."""
    if topology == TWO_SITE:
        return dumps(lab, topology)
    name = f"test-flows-{topology.stem}"
    try:
        return dumps(build.up(topology, name), topology)
    finally:
        build.down(name)


@pytest.mark.parametrize("topology", topologies(), ids=lambda path: path.stem)
def test_reference_dumps_are_what_the_bridges_have(topology: Path, lab: Lab) -> None:
    found = dumps_of(topology, lab)
    for path, text in found.items():
        assert path.read_text() == text, REMEDY
    assert {path.name for path in (next(iter(found)).parent).iterdir()} == {
        path.name for path in found
    }


def test_pipeline_document_has_the_reference_flows() -> None:
    assert DOCUMENT.read_text() == document(), REMEDY
