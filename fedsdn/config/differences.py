"""What two federation files say differently, and a digest that tells whether they do.

Only what they mean counts: not the order of sites, prefixes and uplinks, nor whether a default is
written down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedsdn.config.document import Document, KeyPath, key_path
from fedsdn.config.loader import (
    federation_document,
    federation_section,
    parse_federation,
    site_document,
)
from fedsdn.config.model import MOST_KEPT, Federation, PairEncryption, Site
from fedsdn.config.rules_file import rule_meaning, rules_meaning

DIGEST_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Place:
    """What one file says: ``text``, at a ``line``, or at the line of the section that lacks it."""

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of the file, or of a site, that two files have differently."""

    site: str | None
    field: str
    first: Place
    second: Place

    @property
    def name(self) -> str:
        """Say what differs: a field, a site, or a site's field."""
        site = "" if self.site is None else f"site {self.site}"
        return ", ".join(part for part in (site, self.field) if part)


@dataclass(frozen=True, slots=True)
class FederationText:
    """A federation, and the document that it was read from."""

    federation: Federation
    document: Document


def read_text(path: Path) -> FederationText:
    """Read a federation file, or a topology's federation, with its lines.

    Raises:
        ConfigError: the first error in the file, in one line.

    """
    document = federation_section(path)
    return FederationText(parse_federation(document, of_lab=document.at != ()), document)


def digest(federation: Federation) -> str:
    """Return a digest of what the file means; 16 hexadecimal digits."""
    whole = hashlib.sha256(_canonical(_shared_meaning(federation)))
    for site in sorted(federation.sites, key=lambda site: site.name):
        whole.update(_site_digest(site))
    return whole.hexdigest()[:DIGEST_DIGITS]


@lru_cache(MOST_KEPT)
def _site_digest(site: Site) -> bytes:
    """Return a digest of what is a site's: of most it is known when a file has changed."""
    return hashlib.sha256(_canonical({site.name: _site_meaning(site)})).digest()


def _canonical(meaning: Mapping[str, Any]) -> bytes:
    return json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode()


def differences(first: FederationText, second: FederationText) -> tuple[Difference, ...]:
    """Return what differs, in the order of the first file; what only the second has comes last."""
    sides = _Side(first), _Side(second)
    return tuple(_compared(sides, ((), sides[0].meaning, sides[1].meaning)))


def _meaning(federation: Federation) -> dict[str, Any]:
    """Return the file as nested mappings, with every default, prefixes by their network."""
    sites = {site.name: _site_meaning(site) for site in federation.sites}
    return _shared_meaning(federation) | {"sites": sites}


def _shared_meaning(federation: Federation) -> dict[str, Any]:
    """Return what is no single site's."""
    document = federation_document(replace(federation, sites=()))
    if federation.pairs:
        document["pairs"] = {_pair(pair): pair.encryption for pair in federation.pairs}
    return document | rules_meaning(federation)


def _site_meaning(site: Site) -> dict[str, Any]:
    document = site_document(site)
    document["prefixes"] = {one.pop("prefix"): one for one in document["prefixes"]}
    if site.identities:
        document["identity"] = [identity.name for identity in site.identities]
    return document


def _pair(pair: PairEncryption) -> str:
    return " and ".join(sorted(pair.sites))


class _Side:
    """One of two files: what it means, and where that is written."""

    def __init__(self, text: FederationText) -> None:
        self.meaning = _meaning(text.federation)
        self._document = text.document
        self._prefixes = {
            site.name: {str(prefix.network): at for at, prefix in enumerate(site.prefixes)}
            for site in text.federation.sites
        }
        self._pairs = {_pair(pair): at for at, pair in enumerate(text.federation.pairs)}
        self._rules = {rule_meaning(rule): rule.place for rule in text.federation.allow or ()}

    def place(self, at: KeyPath, value: object) -> Place:
        """Say what this file has at a place of its meaning; ``value`` is None if nothing."""
        here = self._document
        for key in self._written(at):
            here = here.section(key)
        default = value is not None and here.at not in here.lines
        return Place(f"{_said(at, value)}{' by default' * default}", here.line)

    def _written(self, at: KeyPath) -> KeyPath:
        """Turn a prefix, a pair or a rule in the meaning into its number in the file's list."""
        match at:
            case ("allow", str(rule)):
                return ("allow", self._rules.get(rule, rule))
            case ("sites", str(site), "prefixes", str(network), *rest):
                index = self._prefixes.get(site, {}).get(network, network)
                return ("sites", site, "prefixes", index, *rest)
            case ("pairs", str(pair)):
                return ("pairs", self._pairs.get(pair, pair), "encryption")
        return at


_Pair = tuple[KeyPath, Any, Any]


def _compared(sides: tuple[_Side, _Side], pair: _Pair) -> Iterator[Difference]:
    at, first, second = pair
    if isinstance(first, dict) and isinstance(second, dict):
        for key in first | second:
            yield from _compared(sides, ((*at, key), first.get(key), second.get(key)))
    elif first != second:
        site, field = _named(at)
        yield Difference(site, field, sides[0].place(at, first), sides[1].place(at, second))


def _named(at: KeyPath) -> tuple[str | None, str]:
    """Return the site of a place of the meaning, and the field as people say it."""
    match at:
        case ("allow", str(rule)):
            return None, f"rule '{rule}'"
        case ("groups", str(name)):
            return None, f"group {name}"
        case ("sites", str(site), ("prefixes" | "uplinks") as kind, str(name), *rest):
            one = "prefix" if kind == "prefixes" else "uplink"
            return site, ", ".join((f"{one} {name}", *map(str, rest)))
        case ("sites", str(site), *rest):
            return site, key_path(tuple(rest))
    return None, key_path(at)


def _said(at: KeyPath, value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return _section_said(at, value) if isinstance(value, Mapping) else str(value)


def _section_said(at: KeyPath, section: Mapping[str, Any]) -> str:
    if at == ("allow",):
        return "1 rule" if len(section) == 1 else f"{len(section)} rules"
    if at[:1] == ("sites",) and len(at) == 2:
        counts = (f"{key}: {len(section[key])}" for key in ("prefixes", "uplinks"))
        names = (f"identity: {name}" for name in section.get("identity", ()))
        return ", ".join((*counts, *names))
    return ", ".join(f"{key} {_said((*at, key), one)}" for key, one in section.items())
