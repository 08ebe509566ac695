"""The states of a path's teardown, whatever happens in whichever order."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from fedsdn.uplinks.teardown import Event, OrderBook, Teardown

EVENTS = st.lists(st.sampled_from(Event), max_size=30)
TO_ENDING = (Event.LOST, Event.ACKNOWLEDGED, Event.REPLACED)


def after(*events: Event) -> Teardown:
    state = Teardown.CARRYING
    for event in events:
        state = state.after(event)
    return state


def has_released(state: Teardown) -> bool:
    """Whether the endpoint of an uplink whose only path came so far is to go."""
    book = OrderBook()
    book.note("up1", (ip_address("192.0.2.1"), ip_address("192.0.2.2")), state, None)
    return book.orders().dead == {"up1"}


def test_subflows_end_after_the_loss_its_acknowledgement_and_a_replacement() -> None:
    assert after(*TO_ENDING) is Teardown.ENDING
    for events in product(Event, repeat=2):
        assert after(*events) is not Teardown.ENDING


def test_the_endpoint_of_a_lost_port_goes_without_the_peer() -> None:
    assert after(Event.LOST, Event.PORT_REPLACED) is Teardown.RELEASED
    assert after(Event.LOST, Event.REPLACED) is Teardown.LOST


@given(EVENTS)
def test_subflows_end_only_while_the_loss_is_acknowledged(events: list[Event]) -> None:
    state = Teardown.CARRYING
    acknowledged = False
    for event in events:
        down = state is not Teardown.CARRYING
        state = state.after(event)
        if event is Event.ACKNOWLEDGED:
            acknowledged = down
        elif event in (Event.WITHDRAWN, Event.RECOVERED):
            acknowledged = False
        assert state.is_acknowledged == acknowledged
        assert state is not Teardown.ENDING or acknowledged


@given(EVENTS)
def test_what_was_torn_down_comes_back_only_with_the_path(events: list[Event]) -> None:
    state = Teardown.CARRYING
    for event in events:
        before, state = state, state.after(event)
        if event is Event.RECOVERED:
            assert state is Teardown.CARRYING
            assert not has_released(state)
        else:
            assert has_released(state) >= has_released(before)
            assert state.has_ended >= before.has_ended
            assert before is Teardown.CARRYING or state is not Teardown.CARRYING
