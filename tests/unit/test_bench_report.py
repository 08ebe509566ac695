"""Figures against their bounds, and how they are shown."""

import json

import pytest

from fedsdn.bench.cases import Case, Control, Kind
from fedsdn.bench.deletion import Deletion
from fedsdn.bench.flaps import Flaps
from fedsdn.bench.loss import MeasuredLoss
from fedsdn.bench.report import as_json, tables
from fedsdn.bench.results import Results, comparisons, returns, silences
from fedsdn.bench.uneven import Carried, Wires


def loss(
    silence_ms: float,
    back_ms: float | None = 700.0,
    kind: Kind = Kind.WIRE,
    control: Control = Control.APPLICATION,
    live: int = 0,
) -> MeasuredLoss:
    case = Case(kind, control, 0, "upload", 4, live)
    return MeasuredLoss(case, silence_ms, 10.0, 40.0, 41.0, 98.0, back_ms, 1000, None)


@pytest.mark.parametrize(
    ("kind", "silence", "met"),
    [
        (Kind.WIRE, 90.0, True),
        (Kind.WIRE, 91.0, False),
        (Kind.FAR_PORT, 91.0, False),
        (Kind.SILENT, 400.0, True),
        (Kind.SILENT, 401.0, False),
    ],
)
def test_silences_against_the_bound_of_their_kind(kind: Kind, silence: float, met: bool) -> None:
    (judged,) = silences([loss(10.0, kind=kind), loss(silence, kind=kind)])
    assert judged.met is met


def test_the_kernel_alone_has_figures_but_no_bound() -> None:
    (judged,) = silences([loss(5000.0, control=Control.KERNEL)])
    assert (judged.met, judged.bound, judged.figures.worst) == (None, "", 5000.0)


def test_an_uplink_that_does_not_come_back_is_the_worst() -> None:
    (judged,) = returns([loss(10.0, 700.0), loss(10.0, None)])
    assert judged.met is False
    assert judged.figures.n == 2


def test_a_round_trip_time_that_is_not_known_excuses_nothing() -> None:
    case = Case(Kind.WIRE, Control.APPLICATION, 0, "upload", 4)
    (judged,) = silences([MeasuredLoss(case, 51.0, 0.0, None, None, 98.0, 1.0, 1, None)])
    assert (judged.met, judged.over_rtt) == (False, 51.0)


def test_classes_are_apart_and_in_order() -> None:
    losses = [
        loss(1.0, live=1000),
        loss(1.0, control=Control.KERNEL),
        loss(1.0, kind=Kind.SILENT),
        loss(1.0),
    ]
    found = [(judged.control, judged.kind, judged.live) for judged in silences(losses)]
    assert found == [
        (Control.APPLICATION, Kind.WIRE, 0),
        (Control.APPLICATION, Kind.SILENT, 0),
        (Control.KERNEL, Kind.WIRE, 0),
        (Control.APPLICATION, Kind.WIRE, 1000),
    ]


def carried(mbit: float, wires: Wires = Wires.SLOW, *, both: bool = True) -> Carried:
    return Carried(wires, both, "upload", 4, mbit / 2, mbit, None)


def test_both_wires_are_compared_with_the_best_alone_by_medians() -> None:
    found = [carried(mbit) for mbit in (10.0, 104.0, 105.0)]
    found += [carried(mbit, both=False) for mbit in (94.0, 94.0, 200.0)]
    found += [carried(90.0, Wires.LOSSY), carried(95.0, Wires.LOSSY, both=False)]
    slow, lossy = comparisons(found)
    assert (slow.n, slow.both, slow.alone, slow.early_both) == (3, 104.0, 94.0, 52.0)
    assert (slow.met, lossy.met) == (True, False)


def everything() -> Results:
    return Results(
        losses=[loss(50.0), loss(5.0, None)],
        deletion=Deletion(5000, 5000, 400.0, None, 4990, ()),
        flaps=Flaps(4711, 200, 100, 1000, 80.0, 1900.0, "right", ()),
        carried=[carried(104.0), carried(94.0, both=False)],
    )


def test_tables_have_a_cell_for_every_heading() -> None:
    found = list(tables(everything()))
    assert len(found) == 5
    for _title, headings, rows in found:
        assert rows
        assert all(len(row) == len(headings) for row in rows)


def test_nothing_measured_has_no_tables() -> None:
    assert list(tables(Results())) == []


def test_json_has_every_measurement() -> None:
    found = json.loads(as_json(everything()))
    assert [one["silence_ms"] for one in found["losses"]] == [50.0, 5.0]
    assert found["losses"][1]["back_ms"] is None
    assert found["losses"][0]["case"]["kind"] == "wire"
    assert found["flaps"]["seed"] == 4711
