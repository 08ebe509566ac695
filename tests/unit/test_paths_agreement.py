"""Two sites end subflows only where the peer has acknowledged the loss, so that some are left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsdn.uplinks.status import PortState
from tests.unit.connection_model import Connection
from tests.unit.federations import two_sites
from tests.unit.path_model import DOWN, STEP, UP, Model

Trouble = tuple[str, str]
"""What happens, and at which site."""
TROUBLES = list(
    product(
        (
            "stalls",
            "starts again",
            "loses its port",
            "loses its other port",
            "loses what it sends on up1",
            "loses what it sends on up2",
        ),
        "ab",
    )
)
A_STALLS, _, A_STARTS_AGAIN, _, A_LOSES_PORT, B_LOSES_PORT = TROUBLES[:6]
A_LOSES_OTHER_PORT, B_LOSES_OTHER_PORT = TROUBLES[6:8]
A_LOSES_UP1, B_LOSES_UP1, A_LOSES_UP2, B_LOSES_UP2 = TROUBLES[8:]


@pytest.fixture
def model() -> Model:
    return Model(two_sites())


def test_subflows_end_only_when_the_peer_knows_that_their_path_is_dead(model: Model) -> None:
    """At both sites, within a round trip."""
    ours, theirs = (next(iter(model.sites[site])) for site in "ab")
    model.cut_wire("up1", "b")
    model.seconds_until("a", "up1", DOWN)
    assert not ours.ended
    found = model.now
    while not ours.ended:
        model.run(STEP)
    assert theirs.state is DOWN
    assert model.now - found <= 2 * model.delay + 3 * STEP
    model.run(model.delay + 2 * STEP)
    assert theirs.ended


def test_what_either_site_finds_dead_is_down_at_both_and_comes_back(model: Model) -> None:
    model.cut |= {("b", "a", "up1"), ("a", "b", "up2")}
    model.run(2)
    for site in "ab":
        assert model.states(site) == {"up1": DOWN, "up2": DOWN}
    model.mend()
    for site, uplink in product("ab", ("up1", "up2")):
        model.seconds_until(site, uplink, UP, limit=1)


def _begin(model: Model, trouble: Trouble) -> None:
    match trouble:
        case "stalls", site:
            model.stalled.add(site)
        case "starts again", site:
            model.start(site, model.now)
        case "loses its port", site:
            model.set_port(site, "up1", PortState.DOWN)
        case "loses its other port", site:
            model.set_port(site, "up2", PortState.DOWN)
        case "loses what it sends on up1", site:
            model.cut_wire("up1", site)
        case "loses what it sends on up2", site:
            model.cut_wire("up2", site)


def _end_all(model: Model) -> None:
    model.mend()
    model.stalled.clear()
    for site, paths in model.sites.items():
        for uplink, port in paths.ports.items():
            if port is not PortState.UP:
                model.set_port(site, uplink, PortState.UP)


def over(model: Model, troubles: list[tuple[set[Trouble], float]]) -> Iterator[None]:
    """Yield after every step of troubles that come and end."""
    for at_once, seconds in [*troubles, (set(), 0.7)]:
        for trouble in at_once:
            _begin(model, trouble)
        end = model.now + seconds
        while model.now < end:
            model.run(STEP)
            yield
        _end_all(model)


def whatever_happens(test: Callable[..., None]) -> Callable[..., None]:
    """Whichever direction is lost, whichever process stalls or restarts, and for how long."""
    troubles = st.lists(
        st.tuples(st.sets(st.sampled_from(TROUBLES), max_size=3), st.floats(0.01, 0.7)),
        max_size=8,
    )
    for known in KNOWN:
        test = example(troubles=known)(test)
    return settings(deadline=None, max_examples=25)(given(troubles=troubles)(test))


KNOWN: list[list[tuple[set[Trouble], float]]] = [
    [(set(), 0.125), ({A_STALLS}, 0.421875), ({B_LOSES_UP2, A_LOSES_UP1}, 0.5)],
    [({A_LOSES_UP1}, 0.5), ({B_LOSES_UP2}, 0.2), ({B_LOSES_UP1, B_LOSES_UP2}, 3.0)],
    [({B_LOSES_UP2, A_LOSES_UP1}, 0.5), ({A_STARTS_AGAIN}, 0.5)],
    [
        *[({A_LOSES_PORT}, 0.05), (set(), 0.4)] * 6,
        *[({A_STALLS}, 0.4), (set(), 2.2), ({A_LOSES_UP2, B_LOSES_UP2}, 0.7)],
    ],
    [({A_LOSES_PORT, B_LOSES_OTHER_PORT}, 0.5), (set(), 3.0)],
    [
        *[({A_STARTS_AGAIN, B_LOSES_PORT}, 0.5), (set(), 2.5)],
        ({A_LOSES_OTHER_PORT, B_LOSES_OTHER_PORT}, 0.7),
    ],
    [({A_LOSES_PORT}, 0.5), (set(), 2.5), ({A_LOSES_UP2, B_LOSES_UP2}, 0.7), (set(), 3.0)],
]


@whatever_happens
def test_some_path_is_left_alone_by_both_sites(troubles: list[tuple[set[Trouble], float]]) -> None:
    """Ended by one site here and by the other there, connections would have no subflow left."""
    model = Model(two_sites())
    gone: set[str] = set()
    for _ in over(model, troubles):
        every = [path for site in "ab" for path in model.sites[site]]
        gone |= {path.name.uplink for path in every if path.ended}
        gone &= {path.name.uplink for path in every if path.state is DOWN}
        assert gone != {"up1", "up2"}


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
@whatever_happens
def test_every_connection_keeps_a_subflow_that_both_ends_have(
    troubles: list[tuple[set[Trouble], float]], *, busy: bool
) -> None:
    """Left alone, it has two; it must not depend on that another can be opened."""
    model = Model(two_sites())
    connection = Connection(model, busy)
    for _ in over(model, troubles):
        connection.step()
        assert connection.left()
