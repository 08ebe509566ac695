"""By which path the kernel says that it sends a datagram, and when it says nothing of the kind."""

from __future__ import annotations

import subprocess

import pytest

from fedsdn.errors import FedsdnError
from fedsdn.inspect.trace.question import parse_question
from fedsdn.inspect.trace.routed import path_to
from fedsdn.shell import Shell
from fedsdn.uplinks.path import PathName
from tests.unit.federations import two_sites

A, B = (two_sites().site(name) for name in "ab")
QUESTION = parse_question("10.1.0.11", "10.2.0.11:53", reply=False, protocol="udp")


def ask(monkeypatch: pytest.MonkeyPatch, status: int, out: str, errors: str) -> PathName | None:
    """Ask where ``ip route get`` answers so."""
    done = subprocess.CompletedProcess([], status, out, errors)
    monkeypatch.setattr(Shell, "run", lambda *_, **__: done)
    return path_to(two_sites(), A, B, QUESTION)


def test_the_path_is_the_tunnels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, 0, '[{"dev":"t1-up1"}]', "") == PathName("up1", "b", "up1")


@pytest.mark.parametrize("said", ["No route to host", "Network is unreachable"])
def test_no_path_lives(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    assert ask(monkeypatch, 2, "", f"RTNETLINK answers: {said}\n") is None


@pytest.mark.parametrize(
    ("status", "out", "errors", "told"),
    [
        (255, "", 'Cannot open network namespace "fedsdn": No such file', "cannot be read: Cannot"),
        (1, "", 'Cannot find device "router"', 'cannot be read: Cannot find device "router"'),
        (0, '[{"dev":"router"}]', "", "is routed to router, which is no tunnel to b: run 'fedsdn"),
    ],
)
def test_any_other_answer_is_an_error(
    monkeypatch: pytest.MonkeyPatch, status: int, out: str, errors: str, told: str
) -> None:
    with pytest.raises(FedsdnError, match=told):
        ask(monkeypatch, status, out, errors)
