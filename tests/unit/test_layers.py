"""No import runs upward: every import of the package, held against docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fedsdn"
DOCUMENT = ROOT / "docs" / "architecture.md"

_PICTURE = re.compile(r"^```layers\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_GAP = re.compile(r" {2,}")
_LIBRARIES = re.compile(r"\bonly ((?:`\w+`(?:,\s|\sand\s)?)+)\s+imports?\s+(\w+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layers:
    """The picture, top layer first; ``arrows`` are those within a layer, by where they begin.

    ``libraries`` are the parts that may import a library, for those that not all may import.
    """

    layers: tuple[frozenset[str], ...]
    arrows: Mapping[str, frozenset[str]]
    libraries: Mapping[str, frozenset[str]]

    @property
    def parts(self) -> frozenset[str]:
        return frozenset().union(*self.layers)

    def allowed(self, part: str) -> frozenset[str]:
        """What a part may import of fedsdn."""
        (level,) = (number for number, layer in enumerate(self.layers) if part in layer)
        below = frozenset().union(*self.layers[level + 1 :])
        return below | self.arrows.get(part, frozenset()) | {part}


def read_picture(document: str) -> Layers:
    """Read the document: a layer a line, ``a, b`` and behind a gap its arrows, ``a -> b``.

    Raises:
        ValueError: there is not exactly one picture, or a line has more than one arrow.

    """
    (picture,) = _PICTURE.findall(document)
    layers: list[frozenset[str]] = []
    arrows: defaultdict[str, frozenset[str]] = defaultdict(frozenset)
    for line in picture.splitlines():
        layer, *within = _GAP.split(line)
        layers.append(frozenset(layer.split(", ")))
        for text in within:
            left, right = (frozenset(side.split(", ")) for side in text.split(" -> "))
            assert left | right <= layers[-1], f"{text}: an arrow within a layer"
            for part in left:
                arrows[part] |= right
    libraries = {
        library: frozenset(re.findall(r"`(\w+)`", names))
        for names, library in _LIBRARIES.findall(document)
    }
    return Layers(tuple(layers), arrows, libraries)


def part_of(file: Path) -> str:
    """The package or module of fedsdn to which a file belongs: of ``a/b/c.py`` it is ``a``."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of everything that is imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the import out"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def forbidden(layers: Layers, file: Path) -> Iterator[str]:
    """Yield a file's imports that the picture does not allow."""
    part = part_of(file)
    for line, name in imported(ast.parse(file.read_text("utf-8"))):
        first, *rest = name.split(".")
        if first == "fedsdn":
            allowed = rest[0] in layers.allowed(part)
        else:
            allowed = part in layers.libraries.get(first, {part})
        if not allowed:
            yield f"{file.relative_to(PACKAGE.parent)}, line {line}: {part} imports {name}"


@pytest.fixture(scope="module")
def layers() -> Layers:
    return read_picture(DOCUMENT.read_text("utf-8"))


def test_no_import_runs_upward(layers: Layers) -> None:
    files = set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"}
    found = [text for file in sorted(files) for text in forbidden(layers, file)]
    assert not found, "\n".join(found)


def parts() -> set[str]:
    return {part_of(file) for file in PACKAGE.rglob("*.py")} - {"__init__"}


def test_every_part_stands_once_in_the_picture(layers: Layers) -> None:
    places = [part for layer in layers.layers for part in layer]
    assert len(places) == len(layers.parts)
    assert parts() <= layers.parts


def test_the_arrows_within_a_layer_make_no_circle(layers: Layers) -> None:
    """Raises CycleError with the parts of a circle."""
    TopologicalSorter(layers.arrows).prepare()


def test_libraries_are_named(layers: Layers) -> None:
    assert {"os_ken", "pyroute2", "ovs"} == set(layers.libraries)
    assert all(users <= layers.parts for users in layers.libraries.values())


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fedsdn.low.x", []),
        ("from fedsdn import low", []),
        ("from fedsdn.base import x", []),
        ("from fedsdn.beside.x import y", []),
        ("import json, tool.part", []),
        ("from fedsdn.other import x", ["line 1: mid imports fedsdn.other.x"]),
        ("def late():\n    from fedsdn.high.x import y", ["line 2: mid imports fedsdn.high.x.y"]),
        ("import foreign", ["line 1: mid imports foreign"]),
    ],
)
def test_what_is_found(
    source: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = (
        "```layers\nhigh\nmid, beside, other  mid -> beside  other -> beside\nlow\nbase\n```\n"
    )
    text = f"{picture}Only `mid` and\n`low` import tool; only `low`\nimports foreign.\n"
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path / "fedsdn")
    file = tmp_path / "fedsdn" / "mid" / "a.py"
    file.parent.mkdir(parents=True)
    file.write_text(source)
    said = list(forbidden(read_picture(text), file))
    assert [line.partition(", ")[2] for line in said] == found
