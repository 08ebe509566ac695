"""Checks as values, and how a list of them is gone through."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from fedsdn.errors import FedsdnError
from fedsdn.ovs.commands import OvsError


class CheckFailedError(Exception):
    """What a check found instead of what it proves, and the command that mends it."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(found)
        self.found = found
        self.fix = fix


class Outcome(Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to be true.

    ``test`` returns the value it found when all is well, and raises ``CheckFailedError``
    otherwise. ``needs`` names checks before it in the list without which it would say nothing.
    ``section`` and ``name`` together are unique in a list.
    """

    section: str
    name: str
    proves: str
    test: Callable[[], str]
    needs: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """How other checks and the report name it."""
        return f"{self.section}: {self.name}"


@dataclass(frozen=True, slots=True)
class Result:
    """How one check ended; ``found`` is the value seen, or why it was skipped."""

    section: str
    name: str
    proves: str
    outcome: Outcome
    found: str
    fix: str
    seconds: float


def run_checks(checks: Iterable[Check]) -> Iterator[Result]:
    """Run checks in their order, and skip those whose prerequisites have failed.

    A command that is missing, fails or hangs is a failed check, not the end of the list.
    """
    culprits: dict[str, str] = {}
    for check in checks:
        start = time.monotonic()
        culprit = next((culprits[need] for need in check.needs if need in culprits), None)
        if culprit is None:
            outcome, found, fix = _outcome(check)
        else:
            outcome, found, fix = Outcome.SKIPPED, f"because of '{culprit}'", ""
        if outcome is not Outcome.PASSED:
            culprits[check.title] = culprit or check.title
        yield Result(
            section=check.section,
            name=check.name,
            proves=check.proves,
            outcome=outcome,
            found=found,
            fix=fix,
            seconds=time.monotonic() - start,
        )


def _outcome(check: Check) -> tuple[Outcome, str, str]:
    try:
        return Outcome.PASSED, check.test(), ""
    except CheckFailedError as failure:
        return Outcome.FAILED, failure.found, failure.fix
    except OvsError as error:
        return Outcome.FAILED, error.found, error.remedy
    except FedsdnError as error:
        return Outcome.FAILED, str(error), "run that command by hand"


@dataclass(frozen=True, slots=True)
class Totals:
    """How many checks ended which way."""

    passed: int
    failed: int
    skipped: int

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def totals(results: Iterable[Result]) -> Totals:
    """Count outcomes."""
    count = Counter(result.outcome for result in results)
    return Totals(count[Outcome.PASSED], count[Outcome.FAILED], count[Outcome.SKIPPED])
