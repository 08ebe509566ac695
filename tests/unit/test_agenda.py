"""What is due when, against a table of the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedsdn.uplinks.agenda import Agenda

steps = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)))


@given(st.lists(st.tuples(steps, st.integers(0, 20))))
def test_the_last_moment_that_was_noted_counts(
    turns: list[tuple[list[tuple[str, int]], int]],
) -> None:
    agenda, table = Agenda(), dict[str, float]()
    for noted, now in turns:
        for name, when in noted:
            agenda.note(name, when or float("inf"))
            table[name] = when or float("inf")
        assert agenda.next() == min(table.values(), default=float("inf"))
        due = {name for name, when in table.items() if when <= now}
        assert set(agenda.pop(now)) == due
        for name in due:
            del table[name]
