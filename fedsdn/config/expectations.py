"""What somebody expects of a federation file's rules, as a file of its own, held against them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedsdn.config.addresses import parse_address
from fedsdn.config.decision import Decision, Question, decide
from fedsdn.config.document import Document, load_document
from fedsdn.config.model import Federation
from fedsdn.config.schema import validate


@dataclass(frozen=True, slots=True)
class Expectation:
    """One connection that is expected to be allowed, or refused; ``line`` is that of the file."""

    asked: Question
    allowed: bool
    line: int


@dataclass(frozen=True, slots=True)
class Disappointment:
    """An expectation that is not met, and what is decided instead."""

    expected: Expectation
    found: Decision

    def __str__(self) -> str:
        wanted, is_so = (
            "allowed" if allowed else "refused"
            for allowed in (self.expected.allowed, self.found.allowed)
        )
        return f"{self.expected.asked}: expected {wanted}, found {is_so}: {self.found.why}"


def read_expectations(path: Path) -> tuple[Expectation, ...]:
    """Read a file of expectations; one that names several addresses or ports counts for each.

    Raises:
        ConfigError: the first error in the file, in one line.

    """
    document = load_document(path)
    validate(document, "expectations")
    return tuple(one for item in document.elements() for one in _expectations(item))


def _expectations(item: Document) -> list[Expectation]:
    protocol, ports = item.value.get("protocol", "tcp"), item.section("ports")
    if protocol != "icmp" and ports.value is None:
        raise ports.error("nothing", "a port of the destination, 1 to 65535, or a list of these")
    if protocol == "icmp" and ports.value is not None:
        raise ports.error("ports of ICMP, which has none", "'ports' with 'tcp' or 'udp' alone")
    found = [
        Expectation(
            Question(client, destination, port, protocol),
            item.value["expect"] == "allowed",
            item.line,
        )
        for client in map(parse_address, item.section("from").each())
        for destination in map(parse_address, item.section("to").each())
        for port in ([0] if ports.value is None else [int(one.value) for one in ports.each()])
        if client.version == destination.version
    ]
    if not found:
        raise item.section("to").error(
            "no address of the IP version of one under 'from'", "addresses of one IP version"
        )
    return found


def unmet(federation: Federation, expected: tuple[Expectation, ...]) -> list[Disappointment]:
    """Return the expectations that a federation's rules do not meet."""
    decided = ((one, decide(federation, one.asked)) for one in expected)
    return [Disappointment(one, found) for one, found in decided if found.allowed != one.allowed]
