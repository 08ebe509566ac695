"""What all benchmarks' commands do with results: print them whatever happens, and exit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer

from fedsdn.cli import bench_lab


@dataclass
class Results:
    broken: list[str] = field(default_factory=list)


@pytest.fixture(autouse=True)
def _no_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def none(*_: object) -> Iterator[None]:
        yield None

    monkeypatch.setattr(bench_lab, "_lab_of_our_own", none)


def measure(results: Results, found: str | Exception | None) -> None:
    with bench_lab.measured(
        Path(), results, lambda: [("title", ("a", "b"), [("1", "2")])], json_output=False
    ):
        if isinstance(found, Exception):
            raise found
        results.broken += [found] if found else []


def test_nothing_broken(capsys: pytest.CaptureFixture[str]) -> None:
    measure(Results(), None)
    said = capsys.readouterr()
    assert "title" in said.out
    assert "broken" not in said.err


def test_something_broken_is_exit_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ending:
        measure(Results(), "a connection")
    assert ending.value.exit_code == 1
    said = capsys.readouterr()
    assert "title" in said.out
    assert "broken: a connection" in said.err


def test_what_was_found_is_printed_before_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="in the last minute"):
        measure(Results(), ValueError("in the last minute"))
    assert "title" in capsys.readouterr().out
