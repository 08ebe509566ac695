"""What a site says of peers, and of its own application, that follow another federation file."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedsdn.cli.uplinks import _blocks
from fedsdn.config.differences import digest
from fedsdn.inspect.uplinks import KernelView, snapshot
from fedsdn.shell import Shell
from fedsdn.uplinks.probe import Refusal
from fedsdn.uplinks.status import COMPARE_FILES, DifferingFile, RefusedProbes, SiteStatus
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.files import differing, files
from fedsdn.verify.view import SiteView
from tests.unit.federations import three_sites, two_sites

VIEW = SiteView(two_sites(), two_sites().site("a"), Shell("a"), Path())
STATUS = SiteStatus("a", 0.0, (), (), digest(two_sites()))
NOW = 1_000_000.0


def others(*names: str, age: float = 190.0, now: float = NOW) -> tuple[DifferingFile, ...]:
    return tuple(DifferingFile(name, "another", now - age) for name in names)


def test_one_file_is_well() -> None:
    assert files(VIEW, STATUS) == "no peer has another"


def test_a_peer_with_another_file_is_named() -> None:
    status = replace(STATUS, differing=others("b", now=time.time()))
    with pytest.raises(CheckFailedError) as raised:
        files(VIEW, status)
    assert raised.value.found == "site b's federation file differs from ours, for 3 min"
    assert raised.value.fix == COMPARE_FILES


def test_an_application_that_refused_the_file_is_told() -> None:
    """The file was changed to three sites; the application goes on with two."""
    view = replace(VIEW, federation=three_sites())
    with pytest.raises(CheckFailedError, match="the application does not follow this file"):
        files(view, STATUS)


def test_what_cannot_be_known_is_no_fault() -> None:
    assert files(VIEW, None) == "unknown: no application says so"


def test_of_many_some_are_named() -> None:
    lines = differing(others(*"bcdefghi"), NOW)
    assert lines[0].startswith("site b's federation file differs")
    assert lines[4:] == [
        "site f's federation file differs from ours, for 3 min",
        "so do those of 3 more",
    ]


def test_the_uplinks_command_tells_it_below_the_tables() -> None:
    kernel = KernelView(endpoints={}, subflows=(), counters={})
    well = _blocks(snapshot(two_sites(), "a", STATUS, kernel, NOW))
    status = replace(STATUS, differing=others("c"))
    told = _blocks(snapshot(two_sites(), "a", status, kernel, NOW))
    assert told == [
        *well,
        "site c's federation file differs from ours, for 3 min",
        COMPARE_FILES,
    ]


def test_the_uplinks_command_counts_what_was_refused() -> None:
    """But for handshakes, which every start of an application begins with."""
    kernel = KernelView(endpoints={}, subflows=(), counters={})
    well = _blocks(snapshot(two_sites(), "a", STATUS, kernel, NOW))
    usual = RefusedProbes("b", Refusal.UNPROVEN, 9)
    odd = RefusedProbes("", Refusal.UNKNOWN, 3), RefusedProbes("b", Refusal.SIGNATURE, 1)
    for refused in ((usual,), (usual, *odd)):
        told = _blocks(snapshot(two_sites(), "a", replace(STATUS, refused=refused), kernel, NOW))
        assert told[: len(well)] == well
    assert told[len(well) :] == [
        "refused probes, since the application's start: unknown site 3 (no site), "
        "wrong signature 1 (site b)"
    ]
