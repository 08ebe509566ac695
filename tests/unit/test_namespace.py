"""Entering the proxy's namespace and coming back, where the kernel lets nobody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedsdn import namespace
from fedsdn.errors import FedsdnError
from fedsdn.namespace import MissingNamespaceError


@pytest.fixture(autouse=True)
def nobody_may(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As for who is not root."""

    def refuse(_descriptor: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(namespace, "_DIRECTORY", tmp_path)
    monkeypatch.setattr(namespace, "_setns", refuse)


def test_a_namespace_that_is_missing_is_said_to_be() -> None:
    with pytest.raises(MissingNamespaceError), namespace.within("none"):
        pytest.fail("nobody is inside")


def test_who_may_not_enter_is_told_who_may(tmp_path: Path) -> None:
    (tmp_path / "there").symlink_to("/proc/self/ns/net")
    with pytest.raises(FedsdnError, match="run as root"), namespace.within("there"):
        pytest.fail("nobody is inside")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), namespace.within_file(tmp_path / "none"):
        pytest.fail("nobody is inside")


def test_who_was_inside_goes_home(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []
    own = os.stat("/proc/thread-self/ns/net").st_ino
    monkeypatch.setattr(namespace, "_setns", lambda one: entered.append(os.fstat(one).st_ino))
    with pytest.raises(ZeroDivisionError), namespace.within_file(Path("/proc/self/ns/net")):
        raise ZeroDivisionError
    assert entered == [own, own]
