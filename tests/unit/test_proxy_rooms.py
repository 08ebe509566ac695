"""The rooms of ``fedsdn/proxy``: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fedsdn.proxy

PROXY = Path(fedsdn.proxy.__file__).parent

SHARED = {"stats", "memory", "ended"}
MAY_IMPORT: dict[str, set[str]] = {
    "process": {"socks", "opening", "tls", "relay", "sockets", "admission", *SHARED},
    "socks": {"opening", "tls", "relay", "sockets", "admission", *SHARED},
    "tls": {"sockets", "admission", "ended"},
    "opening": {"admission", "sockets", "memory", "ended"},
    "relay": {"sockets", "stats", "ended"},
    "sockets": {"ended"},
    "admission": {"ended"},
    "stats": {"memory", "ended"},
    "ended": set(),
    "memory": set(),
}


def imported(file: Path) -> set[str]:
    """Rooms, and modules beside them, that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[2] for name in names if name.startswith("fedsdn.proxy.")}
    return found


def files(room: str) -> list[Path]:
    beside = PROXY / f"{room}.py"
    return [beside] if beside.exists() else sorted((PROXY / room).glob("**/*.py"))


def test_every_file_is_in_a_room() -> None:
    known = {file for room in MAY_IMPORT for file in files(room)}
    assert set(PROXY.glob("**/*.py")) - known == {PROXY / "__init__.py"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_room_imports_one_above_it(room: str) -> None:
    for file in files(room):
        assert imported(file) <= MAY_IMPORT[room] | {room}, file.relative_to(PROXY)
