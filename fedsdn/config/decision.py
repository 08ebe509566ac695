"""Whether a VM may open a connection to another, and which line of the file says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedsdn.config.model import Address, Federation, Site
from fedsdn.config.rules import Contact, Protocol, Rule, RuleIndex
from fedsdn.config.special import special


@dataclass(frozen=True, slots=True)
class Question:
    """From ``client`` to a port of ``destination``; the port of ICMP is 0."""

    client: Address
    destination: Address
    port: int
    protocol: Protocol = "tcp"

    def __str__(self) -> str:
        port = f" port {self.port}" if self.port else ""
        return f"{self.protocol} from {self.client} to {self.destination}{port}"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether it is allowed, and why.

    ``rule`` is the one that allows it, if one does; ``nearest`` the one that comes nearest, where
    it is for want of a rule that nothing is allowed.
    """

    allowed: bool
    why: str
    rule: Rule | None = None
    nearest: Rule | None = None

    def __str__(self) -> str:
        return f"{'allowed' if self.allowed else 'refused'}: {self.why}"

    def place(self, file: Path) -> str:
        """Say where the rule is that decides, or the nearest; empty if there is none."""
        rule = self.rule or self.nearest
        return "" if rule is None else f" ({file}:{rule.line})"

    def document(self, file: Path) -> dict[str, object]:
        """Write it as what JSON holds."""
        return {
            "allowed": self.allowed,
            "why": self.why,
            "rule": _rule_document(self.rule, file),
            "nearest": _rule_document(self.nearest, file),
        }


def _rule_document(rule: Rule | None, file: Path) -> dict[str, object] | None:
    if rule is None:
        return None
    return {"name": rule.name, "text": str(rule), "file": str(file), "line": rule.line}


def decide(federation: Federation, asked: Question) -> Decision:
    """Decide as the proxies of both sites do."""
    sites = []
    for end in (asked.client, asked.destination):
        held = federation.prefix_of(end)
        if kind := special(end, None if held is None else held[1]):
            return _refused(f"{end} is {kind}: no VM has it")
        if held is None:
            return _refused(f"{end} is in no site's prefix: not federated, so not carried")
        sites.append(held[0])
    origin, target = sites
    if why := _not_between(origin, target) or _tcp_alone(asked, origin, target):
        return _refused(f"{why}: not carried")
    if federation.rules is None:
        return Decision(allowed=True, why="the file has no 'allow': VMs of all sites may talk")
    wanted = contact(origin, asked)
    rule = federation.rules.first(wanted)
    if rule is not None:
        return Decision(allowed=True, why=f"{rule.name}: {rule}", rule=rule)
    between = f"site {origin.name} to site {target.name}"
    why = f"no rule allows {asked} ({between}): {no_rule(federation.rules, wanted)}"
    return Decision(allowed=False, why=why, nearest=federation.rules.nearest(wanted))


def _not_between(one: Site, other: Site) -> str | None:
    """Say why fedsdn carries nothing between two sites, if so."""
    if one.name == other.name:
        return f"both are at site {one.name}"
    if one.proxy == other.proxy == "socks5":
        return f"neither site {one.name} nor site {other.name} runs fedsdn"
    return None


def _tcp_alone(asked: Question, *sites: Site) -> str | None:
    """Say why fedsdn carries nothing but TCP between two sites, if so."""
    foreign = [site.name for site in sites if site.proxy == "socks5"]
    if asked.protocol == "tcp" or not foreign:
        return None
    return f"site {foreign[0]} has another's proxy, which carries TCP alone"


def _refused(why: str) -> Decision:
    return Decision(allowed=False, why=why)


def contact(origin: Site, asked: Question) -> Contact:
    """Return what rules judge: of clients behind another's proxy they know the site alone."""
    client = None if origin.proxy == "socks5" else asked.client
    return Contact(origin.name, client, asked.destination, asked.port, asked.protocol)


def no_rule(rules: RuleIndex, wanted: Contact) -> str:
    """Say which rule comes nearest, where none allows what somebody wants."""
    nearest = rules.nearest(wanted)
    if nearest is not None:
        return f"the nearest is {nearest.name}, {nearest}"
    return "none is for these two ends" if len(rules) else "'allow' is empty"
