import io
import json
import xml.etree.ElementTree as ET

from rich.console import Console

from fedsdn.verify.checks import Outcome, Result
from fedsdn.verify.report import as_json, as_junit, print_results

PASSED = Result("site a", "bridge", "there is one", Outcome.PASSED, "br-provider", "", 0.25)
FAILED = Result(
    "site a", "flows", "all there", Outcome.FAILED, "3 <missing> \x1b[1m & more", "start [it]", 1.5
)
SKIPPED = Result(
    "a → b, IPv6", "connects", "it does", Outcome.SKIPPED, "because of 'site a: flows'", "", 0.0
)
RESULTS = (PASSED, FAILED, SKIPPED)


def printed(results: tuple[Result, ...]) -> list[str]:
    out = io.StringIO()
    shown = print_results(iter(results), Console(file=out, width=60))
    assert shown == results
    return out.getvalue().splitlines()


def test_the_last_line_counts() -> None:
    assert printed(RESULTS)[-1] == "1 passed, 1 failed, 1 skipped"


def test_every_outcome_has_its_symbol_under_its_section() -> None:
    lines = printed(RESULTS)
    section, other = lines.index("site a"), lines.index("a → b, IPv6")
    assert lines[section + 1].split()[:2] == ["✓", "bridge"]
    assert lines[section + 2].split()[:2] == ["✗", "flows"]
    assert lines[other + 1].split()[:2] == ["\N{EN DASH}", "connects"]


def test_a_failure_says_what_it_proves_what_was_found_and_the_fix() -> None:
    lines = [line.strip() for line in printed((FAILED,))]
    assert "proves: all there" in lines
    assert any(line.startswith("found:  3 <missing>") for line in lines)
    assert "fix:    start [it]" in lines, "brackets are text, not markup"


def test_a_skipped_check_says_why() -> None:
    assert any("because of 'site a: flows'" in line for line in printed((SKIPPED,)))


def test_json_holds_every_field_and_the_totals() -> None:
    data = json.loads(as_json(RESULTS))
    assert data["totals"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert [check["outcome"] for check in data["checks"]] == ["passed", "failed", "skipped"]
    assert data["checks"][1]["found"] == FAILED.found
    assert data["checks"][1]["fix"] == FAILED.fix


def test_junit_is_read_back() -> None:
    root = ET.fromstring(as_junit(RESULTS))  # noqa: S314 -- our own text
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("3", "1", "1")
    assert [suite.get("name") for suite in root] == ["site a", "a → b, IPv6"]
    assert [suite.get("tests") for suite in root] == ["2", "1"]
    passed, failed, skipped = root.iter("testcase")
    assert passed.get("name") == "bridge"
    assert passed.find("failure") is None
    assert passed.find("skipped") is None
    failure = failed.find("failure")
    assert failure is not None
    assert failure.text is not None
    assert "3 <missing>" in failure.text
    assert "fix: start [it]" in failure.text
    reason = skipped.find("skipped")
    assert reason is not None
    assert reason.get("message") == "because of 'site a: flows'"
