"""The benchmark's results for people (tables) and for programs (JSON)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Protocol

from fedsdn.bench.harm import HarmResults
from fedsdn.bench.restore import RestoreResults
from fedsdn.bench.results import Compared, Judged, Results, comparisons, returns, silences
from fedsdn.bench.short import Outcome
from fedsdn.bench.stalled import LEAST_PART, StalledResults
from fedsdn.bench.uneven import EARLY_SECONDS, SECONDS

Rows = Sequence[Sequence[str]]
_MET = {True: "✓", False: "✗", None: ""}
_RESTORERS = {"transparent": "the proxy (transparent)", "nat": "the bridge (nat)"}
_CLASS = ("with", "loss", "idle")
_FIGURES = ("n", "median", "p99", "worst")


def tables(results: Results) -> Iterator[tuple[str, Sequence[str], Rows]]:
    """Yield title, headings and rows of each table that has something to say."""
    if results.losses:
        yield (
            "Longest silence of the receiver after a loss, ms",
            (*_CLASS, *_FIGURES, "before (p99)", "RTT", "over RTT (p99)", "bound", ""),
            [_silence_row(judged) for judged in silences(results.losses)],
        )
        yield (
            "Until a restored uplink carries 90 % of what it did before, ms",
            (*_CLASS, *_FIGURES, "bound", ""),
            [_row(judged) for judged in returns(results.losses)],
        )
    if found := results.deletion:
        yield (
            "An endpoint deleted with its port and added again, ms",
            ("connections", "subflows", "all gone", "all back", "of them"),
            [(
                *(str(found.connections), str(found.subflows)),
                *(_limited(found.gone_ms), _limited(found.back_ms), str(found.returned)),
            )],
        )  # fmt: skip
    if flaps := results.flaps:
        yield (
            "Flaps at random moments",
            ("flaps", "seed", "idle", "bytes", "broken", "longest silence, ms", "endpoints"),
            [(
                *(str(flaps.count), str(flaps.seed), str(flaps.live), str(flaps.bytes)),
                *(str(len(flaps.errors)), _ms(flaps.silence_ms)),
                f"{flaps.endpoints} after {_limited(flaps.settled_ms)} ms",
            )],
        )  # fmt: skip
    if results.carried:
        yield (
            f"What one connection carries in {SECONDS:g} s over uneven wires, Mbit/s (medians)",
            (
                *("wires", "n", "both", "the best alone", "part", ""),
                *(f"first {EARLY_SECONDS:g} s: both", "the best alone"),
            ),
            [_compared_row(compared) for compared in comparisons(results.carried)],
        )


def _compared_row(compared: Compared) -> list[str]:
    return [
        *(compared.wires, str(compared.n), f"{compared.both:.0f}", f"{compared.alone:.0f}"),
        *(f"{compared.both / compared.alone:.2f}", _MET[compared.met]),
        *(f"{compared.early_both:.0f}", f"{compared.early_alone:.0f}"),
    ]


def _row(judged: Judged) -> list[str]:
    found = judged.figures
    return [
        *(judged.control, judged.kind, str(judged.live), str(found.n)),
        *(_ms(found.median), _ms(found.p99), _ms(found.worst)),
        *(judged.bound, _MET[judged.met]),
    ]


def _silence_row(judged: Judged) -> list[str]:
    row = _row(judged)
    return [*row[:-2], _ms(judged.noise), _ms(judged.rtt), _ms(judged.over_rtt), *row[-2:]]


def _limited(value: float | None) -> str:
    return _ms(math.inf if value is None else value)


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    if value == math.inf:
        return "never"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def restore_table(results: RestoreResults) -> tuple[str, Sequence[str], Rows]:
    """Return title, headings and rows of what restoring sources costs."""
    return (
        "Connections from one VM to another, seen there with the client's address and port",
        ("restored by", "asked", "right", "per s", "one by one: median, ms", "p99", "worst"),
        [
            (
                *(_RESTORERS[one.how], str(one.asked), str(one.right)),
                f"{one.rate.median:.0f}",
                *(_ms(one.set_up_ms.median), _ms(one.set_up_ms.p99), _ms(one.set_up_ms.worst)),
            )
            for one in results.figures()
        ],
    )


def harm_table(results: HarmResults) -> tuple[str, Sequence[str], Rows]:
    """Return title, headings and rows of what became of short connections."""
    disturbed = "one wire pulled for a second in four, the two in turn"
    if results.loss_percent:
        disturbed = f"{results.loss_percent:g} % of the packets lost on each wire"
    return (
        f"Short connections, {disturbed}",
        ("connections", "with", "IP", *Outcome, "per s", "flaps"),
        [
            (
                *(one.way, one.control, f"IPv{one.family}"),
                *(str(one.outcomes[outcome]) for outcome in Outcome),
                *(f"{one.outcomes.total() / one.seconds:.0f}", str(one.flaps)),
            )
            for one in results.totals()
        ],
    )


def stalled_table(results: StalledResults) -> tuple[str, Sequence[str], Rows]:
    """Return title, headings and rows of a transfer beside readers who do not read."""
    return (
        "One transfer beside connections whose readers do not read, and without",
        (
            *("IP", "readers", "before, Mbit/s", "while they fill", "beside", "after", "part", ""),
            *("filled, s", "sent each, kB", "TCP memory, MB", "each, kB", "proxies, MB"),
        ),
        [
            (
                *(f"IPv{one.family}", str(one.readers), f"{one.before:.0f}"),
                *(f"{one.filling:.0f}", f"{one.beside:.0f}", f"{one.after:.0f}"),
                *(f"{one.part:.2f}", _MET[one.part >= LEAST_PART], f"{one.filled_seconds:.0f}"),
                *(f"{one.taken / one.readers / 1000:.0f}", f"{one.memory.sockets / 1000:.0f}"),
                *(f"{one.memory.sockets / one.readers:.0f}", f"{one.memory.proxies / 1000:.0f}"),
            )
            for one in results.rounds
        ],
    )


class Measured(Protocol):
    """Results of a benchmark, and what in them may not be."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def broken(self) -> Sequence[str]:
        """A line for each."""


def as_json(results: Measured) -> str:
    """Return every single measurement as one JSON object."""
    return json.dumps(asdict(results), indent=2)
