"""What the proxy is told of the paths: everything once, and then what has changed."""

from __future__ import annotations

import pytest

from fedsdn.uplinks.news import TELL_SECONDS, News
from fedsdn.uplinks.paths import Paths
from fedsdn.uplinks.status import PathState, PortState
from tests.unit.federations import three_sites, two_sites
from tests.unit.path_model import SETTLED, Model

ENDPOINTS = {"up2": 2, "up1": 1}


class Told:
    """What is told of site a of a model, and what a worker makes of it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.news = News(model.sites["a"])
        self.known: dict[tuple[str, str, str], tuple[PathState, bool]] = {}

    def gather(self) -> int:
        """Take in the news; return how many paths they are about."""
        found = self.news.gather(ENDPOINTS, self.model.now)
        assert found.endpoints == ("up1", "up2")
        self.known |= {one.key: (one.state, one.current) for one in found.paths}
        for key in found.gone:
            del self.known[key]
        return len(found.paths) + len(found.gone)

    def holds(self) -> bool:
        paths = self.model.sites["a"]
        return self.known == {path.key: (path.state, path.current) for path in paths}


@pytest.fixture
def told() -> Told:
    return Told(Model(three_sites()))


def test_everything_is_told_once(told: Told) -> None:
    assert told.gather() == len(list(told.model.sites["a"])) == 4
    assert told.holds()
    for _ in range(5):
        told.model.run(TELL_SECONDS)
        assert told.gather() == 0


def test_a_path_that_changes_is_told_alone(told: Told) -> None:
    told.gather()
    told.model.set_port("b", "up1", PortState.DOWN)
    told.model.run(2 * told.model.delay)
    told.news.take(path for path in told.model.sites["a"] if path.state is PathState.DOWN)
    assert told.gather() == 1
    assert told.holds()


def test_a_round_trip_time_that_has_become_another_is_told_when_it_is_heard_of(told: Told) -> None:
    told.gather()
    told.model.delay *= 2
    told.model.run(SETTLED)
    assert told.gather() == 4


def test_paths_of_a_changed_federation_come_and_go(told: Told) -> None:
    told.gather()
    paths = told.model.sites["a"]
    smaller = Paths(two_sites(), "a", epoch=1, now=told.model.now, old=paths)
    told.news.set_paths(smaller)
    assert told.gather() == 2, "two are gone"
    told.model.sites["a"] = smaller
    assert told.holds()
    bigger = Paths(three_sites(), "a", epoch=1, now=told.model.now, old=smaller)
    told.news.set_paths(bigger)
    assert told.gather() == 2, "two are new"
    told.model.sites["a"] = bigger
    assert told.holds()
