"""A federation file that is read again and again: only sites whose text is new are parsed.

A site's section is cut out of the file by its lines, without a YAML parser. That is certain where
every line is *plain*: what begins on it (a quoted value, a list or mapping in brackets) ends on it,
and it has no anchor, alias, tag or block of text. Then a section means the same wherever it stands,
and a document that lacks some sections says of all others what the file does. Every other file is
read as a whole, and so is one with an error: whatever the error is, a whole read says it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fedsdn.config.document import ConfigError, load_text, parse_document
from fedsdn.config.loader import federation_in, parse_federation, parse_sites, with_sites
from fedsdn.config.model import Federation, Site

_LEAST_SITES = 2
"""A federation of less is none, so a document that lacks sections has so many at least."""

_COMMENT = r"(?:#[ -~\u00a1-\u2027\u2030-\ud7ff]*)?"
_KEY = r"[A-Za-z0-9_][A-Za-z0-9_.-]*:"
_WORD = r"[A-Za-z0-9_./+~][A-Za-z0-9_./+~=@:-]*(?<!:)"
_QUOTED = r"""'[ -&(-~]*'|"[ !#-\[\]-~]*\""""
_INNER = rf"[\[{{](?:[A-Za-z0-9_./+~=@:, -]|{_QUOTED})*[\]}}]"
_FLOW = rf"[\[{{](?:[A-Za-z0-9_./+~=@:, -]|{_QUOTED}|{_INNER})*[\]}}]"
_VALUE = rf"(?:{_WORD}(?: {_WORD})*|{_QUOTED}|{_FLOW})"
_CONTENT = rf"(?:(?:- +)*{_KEY}(?: +{_VALUE})?|(?:- +)+{_VALUE})(?: +{_COMMENT})?"

_SITES = re.compile(rf"^sites:(?: +{_COMMENT})?\n", re.MULTILINE)
_OUTSIDE = re.compile(r"^[^ #\n]", re.MULTILINE)
_FIRST = re.compile(rf"(?: *{_COMMENT}\n)*( +)")


@cache
def _plain(indent: int) -> re.Pattern[str]:
    """Match lines that are plain, and indented by ``indent`` or more unless they say nothing."""
    return re.compile(rf"(?: *{_COMMENT}\n| {{{indent},}}{_CONTENT}\n)*")


@cache
def _headings(indent: int) -> re.Pattern[str]:
    return re.compile(rf"^ {{{indent}}}([A-Za-z0-9][A-Za-z0-9_.-]*): *\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Cut:
    """A file's text in parts: what is before the sites, a section for each, what is behind them."""

    head: str
    indent: int
    sections: dict[str, str]
    """By site, each with the line of its name."""
    tail: str

    def without(self, known: set[str]) -> str:
        """Return the file's text without sites that are known, as far as it may lack them."""
        kept = [name for name in self.sections if name not in known]
        fill = [name for name in self.sections if name in known][: max(0, _LEAST_SITES - len(kept))]
        return "".join((self.head, *(self.sections[name] for name in (*kept, *fill)), self.tail))


def cut(text: str) -> Cut | None:
    """Cut a federation file's text, or return None if it is not certain where."""
    if not text.endswith("\n"):
        text += "\n"
    found = _SITES.search(text)
    first = None if found is None else _FIRST.match(text, found.end())
    if found is None or first is None:
        return None
    behind = _OUTSIDE.search(text, found.end())
    end = len(text) if behind is None else behind.start()
    indent = len(first[1])
    headings = list(_headings(indent).finditer(text, found.end(), end))
    starts = [heading.start() for heading in headings]
    if first.start(1) not in starts[:1]:
        return None
    sections = {
        heading[1]: text[start:stop]
        for heading, start, stop in zip(headings, starts, (*starts[1:], end), strict=True)
    }
    head, tail = text[: starts[0]], text[end:]
    if len(sections) < len(headings) or not (_is_plain(head) and _is_plain(tail)):
        return None
    return Cut(head, indent, sections, tail)


def _is_plain(text: str, indent: int = 0) -> bool:
    return _plain(indent).fullmatch(text) is not None


def _is_section(section: str, indent: int) -> bool:
    """Whether a section is plain, and nothing of it is of the sites' own level."""
    return _is_plain(section[section.index("\n") + 1 :], indent + 1)


class FederationReader:
    """Reads a federation file, and knows what it has read before."""

    def __init__(self, path: Path) -> None:
        """Know nothing yet."""
        self._path = path
        self._known: dict[tuple[int, str], Site] = {}
        """By indent and text of the sections."""

    def read(self) -> Federation:
        """Return what the file says now; sites whose text is as before are the same objects.

        Raises:
            ConfigError: the first error in the file, in one line, as ``load_federation``.

        """
        text = load_text(self._path)
        parts = cut(text)
        federation = None
        if parts is not None and self._known:
            with suppress(ConfigError):  # a whole read says it
                federation = self._with_known(parts)
        if federation is None:
            federation = parse_federation(federation_in(parse_document(text, self._path)))
        self._learn(parts, federation)
        return federation

    def _with_known(self, parts: Cut) -> Federation | None:
        sites = {
            name: known
            for name, section in parts.sections.items()
            if (known := self._known.get((parts.indent, section))) is not None
        }
        new = [section for name, section in parts.sections.items() if name not in sites]
        if not all(_is_section(section, parts.indent) for section in new):
            return None
        document = parse_document(parts.without(set(sites)), self._path)
        parsed = {site.name: site for site in parse_sites(document)}
        if not parsed.keys() <= parts.sections.keys():
            return None
        every = parsed | sites
        return with_sites(document, tuple(every[name] for name in parts.sections))

    def _learn(self, parts: Cut | None, federation: Federation) -> None:
        """Know the sections of a file that was good."""
        known: dict[tuple[int, str], Site] = {}
        if parts is not None and list(parts.sections) == [site.name for site in federation.sites]:
            known = {
                key: site
                for site in federation.sites
                for key in [(parts.indent, parts.sections[site.name])]
                if key in self._known or _is_section(key[1], parts.indent)
            }
        self._known = known
