"""What was looked at, a line for each part: with what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fedsdn.errors import FedsdnError
from fedsdn.ovs.commands import OvsError
from fedsdn.verify.checks import CheckFailedError


@dataclass(frozen=True, slots=True)
class Line:
    """One part of a site; ``fix`` is what a person can do, empty where nothing is wrong."""

    name: str
    text: str
    fix: str = ""


def look_at(name: str, look: Callable[[], str]) -> Line:
    """Look at a part; what is wrong, or keeps us from looking, is in the line."""
    try:
        return Line(name, look())
    except CheckFailedError as error:
        return Line(name, error.found, error.fix)
    except OvsError as error:
        return Line(name, error.found, error.remedy)
    except FedsdnError as error:
        text, _, fix = str(error).partition(": ")
        return Line(name, text, fix or "see 'fedsdn verify'")


def screen(title: str, lines: list[Line]) -> Iterator[str]:
    """Write the screen."""
    yield title
    width = max(len(line.name) for line in lines)
    for line in lines:
        mark = "✗" if line.fix else "✓"
        yield f"  {mark} {line.name.ljust(width)}  {line.text}"
        if line.fix:
            yield f"    {'':{width}}  → {line.fix}"
