"""Results of checks for people, for programs (JSON) and for CI (JUnit)."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedsdn.verify.checks import Outcome, Result, totals

_SYMBOLS = {
    Outcome.PASSED: "[green]✓[/]",
    Outcome.FAILED: "[bold red]✗[/]",
    Outcome.SKIPPED: "[yellow]\N{EN DASH}[/]",
}


def print_results(results: Iterable[Result], console: Console) -> tuple[Result, ...]:
    """Print each result as it comes, under its section, and a last line that counts them."""
    shown: list[Result] = []
    for section, of_section in groupby(results, key=lambda result: result.section):
        console.print(f"\n[bold]{escape(section)}[/]", highlight=False)
        for result in of_section:
            shown.append(result)
            for line in _lines(result):
                console.print(line, highlight=False, soft_wrap=True)
    console.print(f"\n{totals(shown)}", highlight=False)
    return tuple(shown)


def _lines(result: Result) -> list[str]:
    symbol = _SYMBOLS[result.outcome]
    name, found = escape(result.name), escape(result.found)
    if result.outcome is Outcome.PASSED:
        return [f"  {symbol} {name} [dim]{found} ({result.seconds:.1f} s)[/]"]
    if result.outcome is Outcome.SKIPPED:
        return [f"  {symbol} {name} [dim]skipped: {found}[/]"]
    return [
        f"  {symbol} [red]{name}[/]",
        f"      proves: {escape(result.proves)}",
        f"      found:  {found}",
        f"      fix:    {escape(result.fix)}",
    ]


def results_table(results: Sequence[Result]) -> Table:
    """One row per check, sections apart, failures with their fix."""
    table = Table("", "check", "found", title="fedsdn verify", box=SIMPLE_HEAD)
    for section, of_section in groupby(results, key=lambda result: result.section):
        table.add_section()
        table.add_row("", f"[bold]{escape(section)}[/]", "")
        for result in of_section:
            found = f"{result.found}\nfix: {result.fix}" if result.fix else result.found
            table.add_row(_SYMBOLS[result.outcome], escape(result.name), escape(found))
    return table


def as_json(results: Sequence[Result]) -> str:
    """Results and their count as one JSON object."""
    rows = [{**asdict(result), "outcome": result.outcome.value} for result in results]
    return json.dumps({"totals": asdict(totals(results)), "checks": rows}, indent=2)


def as_junit(results: Sequence[Result]) -> str:
    """Results as JUnit XML: a suite per section, a case per check."""
    count = totals(results)
    root = ET.Element(
        "testsuites",
        name="fedsdn verify",
        tests=str(len(results)),
        failures=str(count.failed),
        errors="0",
        skipped=str(count.skipped),
        time=f"{sum(result.seconds for result in results):.3f}",
    )
    for section, group in groupby(results, key=lambda result: result.section):
        of_section = list(group)
        count = totals(of_section)
        suite = ET.SubElement(
            root,
            "testsuite",
            name=section,
            tests=str(len(of_section)),
            failures=str(count.failed),
            errors="0",
            skipped=str(count.skipped),
            time=f"{sum(result.seconds for result in of_section):.3f}",
        )
        for result in of_section:
            _junit_case(suite, result)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _junit_case(suite: ET.Element, result: Result) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=f"fedsdn.verify.{result.section}",
        name=result.name,
        time=f"{result.seconds:.3f}",
    )
    if result.outcome is Outcome.FAILED:
        failure = ET.SubElement(case, "failure", message=_printable(result.found))
        failure.text = _printable(
            f"proves: {result.proves}\nfound: {result.found}\nfix: {result.fix}"
        )
    elif result.outcome is Outcome.SKIPPED:
        ET.SubElement(case, "skipped", message=_printable(result.found))
    else:
        ET.SubElement(case, "system-out").text = _printable(result.found)


def _printable(text: str) -> str:
    """Text without the characters that XML 1.0 cannot hold (section 2.2)."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
