"""A YAML file with the line of every key, so that an error can say where it is.

Scalars are read as YAML 1.2 would, not 1.1: ``1:20`` and ``on`` are strings, keys always are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from fedsdn.errors import FedsdnError

KeyPath = tuple[str | int, ...]

MAX_VALUES = 100_000
"""Aliases can make a small file stand for a huge one; no federation has this many values."""

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?[0-9]{1,17}\.[0-9]{0,17}")
_NULL = ("", "~", "null")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_LONGEST_FOUND = 80
_TAGS = [f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")]


class ConfigError(FedsdnError):
    """A file a user wrote is wrong: names file, line, key, what was found and what to write."""


@dataclass(frozen=True, slots=True)
class Document:
    """A value in a YAML file, with where it stands: the whole file, or a section of it.

    ``value`` is made of dict (keys are strings), list, str, int, float and None. ``lines`` has
    the line, from 1, of every key and list item of the file; ``at`` is this value's key path.
    """

    file: Path
    value: Any
    lines: Mapping[KeyPath, int]
    at: KeyPath = ()

    def section(self, key: str | int) -> Document:
        """Return what stands under ``key``, or an empty document there if nothing does."""
        at = (*self.at, key)
        return replace(self, value=self.value[key] if at in self.lines else None, at=at)

    def items(self) -> Iterator[tuple[str, Document]]:
        """Yield keys and values of a mapping."""
        for key in self.value:
            yield key, self.section(key)

    def elements(self) -> Iterator[Document]:
        """Yield the values of a list."""
        for index in range(len(self.value)):
            yield self.section(index)

    @property
    def line(self) -> int:
        """Line of this value's key; of the nearest key around it where there is none."""
        at = self.at
        while at not in self.lines:
            at = at[:-1]
        return self.lines[at]

    def error(self, found: str, write: str) -> ConfigError:
        """Return the error that ``found`` stands here and ``write`` should."""
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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: found no readable file ({error.strerror}); write the path of a YAML file"
        ) from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: found the byte 0x{content[error.start]:02x}, which is not UTF-8; "
            "write the file in UTF-8"
        ) from error
    return parse_document(text, path)


def parse_document(text: str, path: Path) -> Document:
    """Read YAML from ``text``; ``path`` is the file that errors name.

    Raises:
        ConfigError: the text is not YAML.

    """
    try:
        loader = yaml.BaseLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{path}:{line}: found the character {chr(error.character)!r}, which YAML does not "
            "allow; write the file as plain text"
        ) from error
    try:
        return _Reader(path).document(loader.get_single_node())
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, path) from error
    except RecursionError as error:
        raise ConfigError(
            f"{path}:{loader.line + 1}: found lists or mappings nested too deep; write fewer levels"
        ) from error
    except (ValueError, OverflowError) as error:  # PyYAML's, on escapes such as "\UFFFFFFFF"
        raise ConfigError(
            f"{path}:{loader.line + 1}: found an escape or directive that YAML does not have; "
            "write plain text"
        ) from error


def _syntax_error(error: yaml.MarkedYAMLError, text: str, path: Path) -> ConfigError:
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
    """Turns PyYAML's nodes into plain values and notes the lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[KeyPath, int] = {(): 1}
        self._open: set[int] = set()

    def document(self, node: yaml.Node | None) -> Document:
        value = None if node is None else self._value(node, ())
        return Document(self._path, value, self._lines)

    def _value(self, node: yaml.Node, at: KeyPath) -> object:
        here = Document(self._path, None, self._lines, at)
        if id(node) in self._open:
            raise here.error("an alias to the value it is part of", "the value itself")
        if len(self._lines) > MAX_VALUES:
            raise replace(here, at=()).error(f"more than {MAX_VALUES} values", "fewer aliases")
        if node.tag not in _TAGS:
            raise here.error(f"the tag {quoted(node.tag)}", "the value without a tag")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        self._open.add(id(node))
        value = (
            self._mapping(node, at) if isinstance(node, yaml.MappingNode) else self._list(node, at)
        )
        self._open.discard(id(node))
        return value

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, object]:
        return {key: self._value(child, (*at, key)) for key, child in self._keys(node, at)}

    def _list(self, node: yaml.Node, at: KeyPath) -> list[object]:
        value = []
        for index, child in enumerate(node.value):
            self._lines[*at, index] = child.start_mark.line + 1
            value.append(self._value(child, (*at, index)))
        return value

    def _keys(self, node: yaml.MappingNode, at: KeyPath) -> Iterator[tuple[str, yaml.Node]]:
        seen: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                where = Document(self._path, None, {**self._lines, at: line}, at)
                raise where.error("a list or mapping as key", "a name as key")
            self._lines[*at, key.value] = line
            if key.value in seen:
                raise Document(self._path, None, self._lines, (*at, key.value)).error(
                    f"the same key as on line {seen[key.value]}", "each key once"
                )
            seen[key.value] = line
            yield key.value, child


def _scalar(node: yaml.ScalarNode) -> str | int | float | None:
    text: str = node.value
    if node.style is not None:
        return text
    if text in _NULL:
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
