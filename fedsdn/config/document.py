"""A YAML file with the line of every key, so that an error can say where it is.

Scalars are read as YAML 1.2 would, not 1.1: ``1:20`` and ``on`` are strings, keys always are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from fedsdn.errors import FinalError

KeyPath = tuple[str | int, ...]

MOST_ALIASED = 100_000
"""Aliases can make a small file stand for a huge one; these are the most values they may add."""

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?[0-9]{1,17}\.[0-9]{0,17}")
_NULL = ("", "~", "null")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_LONGEST_FOUND = 80
_UNFINISHED = object()
_TAGS = ("!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")))


class ConfigError(FinalError):
    """An error in a user's file: names file, line, key, what was found and what to write."""


@dataclass(frozen=True, slots=True)
class Document:
    """A value of a YAML file, with its place: the whole file, or a section of it.

    ``value`` is made of dict (keys are strings), list, str, int, float and None. ``lines`` has
    the line, from 1, of every key and list item of the file; ``at`` is this value's key path.
    """

    file: Path
    value: Any
    lines: Mapping[KeyPath, int]
    at: KeyPath = ()

    def section(self, key: str | int) -> Document:
        """Return the section under ``key``; its value is None if the file has no such key."""
        at = (*self.at, key)
        value = self.value[key] if at in self.lines else None
        return Document(self.file, value, self.lines, at)

    def items(self) -> Iterator[tuple[str, Document]]:
        """Yield keys and values of a mapping."""
        for key in self.value:
            yield key, self.section(key)

    def elements(self) -> Iterator[Document]:
        """Yield the values of a list."""
        for index in range(len(self.value)):
            yield self.section(index)

    def each(self) -> Iterator[Document]:
        """Yield the values of a list, or the only value."""
        if isinstance(self.value, list):
            yield from self.elements()
        else:
            yield self

    @property
    def line(self) -> int:
        """Line of this value's key, or of the nearest key around it."""
        at = self.at
        while at not in self.lines:
            at = at[:-1]
        return self.lines[at]

    def error(self, found: str, write: str) -> ConfigError:
        """Return the error for what was ``found`` here, with what to ``write`` instead."""
        where = f"{self.file}:{self.line}: "
        if self.at:
            where += f"{key_path(self.at)}: "
        return ConfigError(f"{where}found {found}; write {write}")


def key_path(at: KeyPath) -> str:
    """Write a key path as people do: ``sites.a.prefixes[0].prefix``."""
    text = ""
    for key in at:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += "." if text else ""
            text += key if _PLAIN_KEY.fullmatch(key) else quoted(key)
    return text


def quoted(text: str) -> str:
    """Write ``text`` in quotes, on one line, cut when it is very long."""
    if len(text) > _LONGEST_FOUND:
        text = f"{text[:_LONGEST_FOUND]}..."
    return repr(text)


def load_document(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8 or is not YAML.

    """
    return parse_document(load_text(path), path)


def load_text(path: Path) -> str:
    """Read a file's text.

    Raises:
        ConfigError: the file cannot be read or is not UTF-8.

    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: found no readable file ({error.strerror}); write the path of a YAML file"
        ) from error
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: found the byte 0x{content[error.start]:02x}, which is not UTF-8; "
            "write the file in UTF-8"
        ) from error


def parse_document(text: str, path: Path) -> Document:
    """Read YAML from ``text``; ``path`` is the file that errors name.

    Raises:
        ConfigError: the text is not YAML.

    """
    # One event at a time: while libyaml composes a whole file, no other thread runs.
    try:
        return _Reader(path, yaml.parse(text, yaml.CBaseLoader)).document()
    except (yaml.YAMLError, ValueError) as error:
        raise _syntax_error(error, text, path) from error
    except RecursionError as error:
        raise _too_deep(path, 1) from error


def _syntax_error(refused: Exception, text: str, path: Path) -> ConfigError:
    """Explain what libyaml has refused: PyYAML's own parser is slow, but says it for people."""
    try:
        loader = yaml.BaseLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return ConfigError(
            f"{path}:{line}: found the character {chr(error.character)!r}, which YAML does not "
            "allow; write the file as plain text"
        )
    try:
        loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        return _marked_error(error, text, path)
    except RecursionError:
        return _too_deep(path, loader.line + 1)
    except (ValueError, OverflowError):  # on escapes such as "\UFFFFFFFF"
        return ConfigError(
            f"{path}:{loader.line + 1}: found an escape or directive that YAML does not have; "
            "write plain text"
        )
    if isinstance(refused, yaml.MarkedYAMLError):
        return _marked_error(refused, text, path)
    return ConfigError(f"{path}:1: found no YAML ({' '.join(str(refused).split())}); write YAML")


def _too_deep(path: Path, line: int) -> ConfigError:
    return ConfigError(
        f"{path}:{line}: found lists or mappings nested too deep; write fewer levels"
    )


def _marked_error(error: yaml.MarkedYAMLError, text: str, path: Path) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    problem = " ".join((error.problem or "").split())
    lines = text.splitlines() or [""]
    line = min(mark.line if mark else 0, len(lines) - 1)
    column = mark.column + 1 if mark else 1
    if "'\\t'" in problem or "\t" in lines[line]:
        write = "spaces instead of tabs"
    elif "mapping values" in problem or lines[line].rstrip(" ,]}").endswith(":"):
        write = "'KEY: VALUE', with IPv6 addresses in quotes"
    else:
        write = "YAML"
    return ConfigError(
        f"{path}:{line + 1}: found no YAML at column {column} ({problem}); write {write}"
    )


class _Reader:
    """Turns libyaml's events into plain values, with the lines of keys and items."""

    def __init__(self, path: Path, events: Iterator[yaml.Event]) -> None:
        self._path = path
        self._events = events
        self._lines: dict[KeyPath, int] = {(): 1}
        self._anchors: dict[str, tuple[KeyPath, object]] = {}
        """Where each anchor is, and its value, which is ``_UNFINISHED`` inside of it."""
        self._aliased = 0

    def document(self) -> Document:
        """Read the only document of the stream; an empty stream is an empty document."""
        next(self._events)
        value = None
        if isinstance(next(self._events), yaml.DocumentStartEvent):
            value = self._value(next(self._events), ())
            next(self._events)
            after = next(self._events)
            if not isinstance(after, yaml.StreamEndEvent):
                raise self._error((), _line(after), "a second YAML document", "one")
        return Document(self._path, value, self._lines)

    def _here(self, at: KeyPath) -> Document:
        return Document(self._path, None, self._lines, at)

    def _error(self, at: KeyPath, line: int, found: str, write: str) -> ConfigError:
        """Return the error that ``found`` is at ``line``, which may have no key of its own."""
        return Document(self._path, None, {**self._lines, at: line}, at).error(found, write)

    def _value(self, event: yaml.Event, at: KeyPath) -> object:
        """Read the value that begins with ``event``."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor or "", at)
        event = cast("yaml.ScalarEvent | yaml.CollectionStartEvent", event)
        if event.tag is not None and event.tag not in _TAGS:
            raise self._here(at).error(f"the tag {quoted(event.tag)}", "the value without a tag")
        if event.anchor is not None:
            self._anchors[event.anchor] = at, _UNFINISHED
        value: object
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(at)
        else:
            value = self._list(at)
        if event.anchor is not None:
            self._anchors[event.anchor] = at, value
        return value

    def _mapping(self, at: KeyPath) -> dict[str, object]:
        value: dict[str, object] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                what = "an alias" if isinstance(key, yaml.AliasEvent) else "a list or mapping"
                raise self._error(at, _line(key), f"{what} as key", "a name as key")
            name = key.value
            below = (*at, name)
            if name in value:
                found = f"the same key as on line {self._lines[below]}"
                raise self._error(below, _line(key), found, "each key once")
            if key.anchor is not None:
                self._anchors[key.anchor] = below, name
            self._lines[below] = _line(key)
            value[name] = self._value(next(self._events), below)
        return value

    def _list(self, at: KeyPath) -> list[object]:
        value: list[object] = []
        while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
            below = (*at, len(value))
            self._lines[below] = _line(item)
            value.append(self._value(item, below))
        return value

    def _alias(self, anchor: str, at: KeyPath) -> object:
        if anchor not in self._anchors:
            found = f"the alias {quoted(f'*{anchor}')} without an anchor before it"
            raise self._here(at).error(found, "the value itself")
        there, value = self._anchors[anchor]
        if value is _UNFINISHED:
            raise self._here(at).error("an alias to the value it is part of", "the value itself")
        self._copy_lines(value, there, at)
        return value

    def _copy_lines(self, value: object, there: KeyPath, at: KeyPath) -> None:
        """Give what is in ``value`` the lines that it has ``there``."""
        if not isinstance(value, dict | list):
            return
        for key in value if isinstance(value, dict) else range(len(value)):
            self._aliased += 1
            if self._aliased > MOST_ALIASED:
                few = f"aliases to more than {MOST_ALIASED} values"
                raise self._here(()).error(few, "fewer aliases")
            below = (*at, key)
            self._lines[below] = self._lines[*there, key]
            self._copy_lines(value[key], (*there, key), below)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _scalar(event: yaml.ScalarEvent) -> str | int | float | None:
    text: str = event.value
    if event.style:
        return text
    if text in _NULL:
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
