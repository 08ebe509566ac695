"""Which peers have another federation file, by what their probes say of it."""

from __future__ import annotations

from msgspec.structs import replace as altered

from fedsdn.uplinks.handshake import moment
from fedsdn.uplinks.paths import Paths
from fedsdn.uplinks.probe import Refusal
from fedsdn.uplinks.status import DifferingFile
from tests.unit.federations import three_sites
from tests.unit.path_model import arrive


def with_file(site: str, file: str, now: float, old: Paths | None = None) -> Paths:
    return Paths(three_sites(), site, epoch=1 + int(now), now=now, file=file, old=old)


def heard(by: Paths, of: Paths, now: float) -> None:
    """Have a site hear another, which has answered it."""
    for _, probe in of.last_probes(now):
        arrive(by, altered(probe, heard_epoch=by._sender.epoch, answers=moment(now)), now)


def test_it_is_known_since_when_a_peer_has_another_federation_file() -> None:
    a, same, other = (with_file("a", "1", 0.0), with_file("b", "1", 1.0), with_file("c", "2", 2.0))
    for second in (3.0, 4.0):
        heard(a, same, second)
        heard(a, other, second)
    assert a.differing(4.0) == [DifferingFile("c", "2", 3.0)]
    changed = with_file("a", "2", 5.0, old=a)
    assert changed.differing(5.0) == [DifferingFile("b", "1", 5.0)]
    heard(changed, with_file("b", "2", 6.0), 6.0)
    assert changed.differing(6.0) == []


def test_a_site_that_is_not_heard_any_more_is_not_said_to_have_another_file() -> None:
    """It may have left."""
    a = with_file("a", "1", 0.0)
    heard(a, with_file("b", "2", 1.0), 2.0)
    assert a.differing(61.0) == [DifferingFile("b", "2", 2.0)]
    assert a.differing(62.0) == []
    heard(a, with_file("c", "2", 1.0), 70.0)
    assert a.differing(70.0) == [DifferingFile("c", "2", 70.0)]


def test_a_peer_that_only_has_paths_that_our_file_has_not_is_known_by_its_file() -> None:
    a, b = with_file("a", "1", 0.0), with_file("b", "2", 1.0)
    probe, *_ = [probe for _, probe in b.last_probes(2.0) if probe.to == "a"]
    assert arrive(a, altered(probe, uplink="up9"), 2.0).refusal is Refusal.PATH
    assert a.differing(2.0) == [DifferingFile("b", "2", 2.0)]
