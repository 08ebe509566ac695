from collections.abc import Callable

from fedsdn.errors import FedsdnError
from fedsdn.verify.checks import Check, CheckFailedError, Outcome, Result, run_checks, totals


def passes() -> str:
    return "42"


def fails() -> str:
    raise CheckFailedError("41", "add 1")


def breaks() -> str:
    raise FedsdnError("host: 'count' ended with status 1: no fingers")


def must_not_run() -> str:
    raise AssertionError


def check(name: str, test: Callable[[], str], *needs: str) -> Check:
    return Check("s", name, "it counts", test, tuple(f"s: {need}" for need in needs))


def results(*checks: Check) -> list[Result]:
    return list(run_checks(checks))


def test_a_passed_check_says_what_it_found() -> None:
    (result,) = results(check("count", passes))
    assert (result.outcome, result.found) == (Outcome.PASSED, "42")


def test_a_failed_check_says_what_it_found_and_how_to_mend_it() -> None:
    (result,) = results(check("count", fails))
    assert (result.outcome, result.found, result.fix) == (Outcome.FAILED, "41", "add 1")


def test_a_command_that_fails_is_a_failed_check_and_the_rest_goes_on() -> None:
    first, second = results(check("count", breaks), check("other", passes))
    assert first.outcome is Outcome.FAILED
    assert "no fingers" in first.found
    assert second.outcome is Outcome.PASSED


def test_what_needs_a_failed_check_is_skipped_and_names_it() -> None:
    found = results(
        check("ground", fails),
        check("house", must_not_run, "ground"),
        check("roof", must_not_run, "house"),
        check("tree", passes),
    )
    assert [result.outcome for result in found] == [
        Outcome.FAILED,
        Outcome.SKIPPED,
        Outcome.SKIPPED,
        Outcome.PASSED,
    ]
    assert [result.found for result in found[1:3]] == ["because of 's: ground'"] * 2


def test_what_needs_a_passed_check_runs() -> None:
    found = results(check("ground", passes), check("house", passes, "ground"))
    assert [result.outcome for result in found] == [Outcome.PASSED, Outcome.PASSED]


def test_totals_count_outcomes() -> None:
    found = results(check("a", passes), check("b", fails), check("c", passes, "b"))
    assert str(totals(found)) == "1 passed, 1 failed, 1 skipped"
