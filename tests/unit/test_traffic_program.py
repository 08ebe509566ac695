"""The test program for TCP, and how it is run."""

from __future__ import annotations

import json
import socket

from fedsdn.shell import Shell
from fedsdn.traffic.runner import PROGRAM

HERE = Shell("here")
PATIENCE_S = 60.0


def test_what_is_said_at_once_comes_line_by_line() -> None:
    with HERE.started("printf", "one\\ntwo\\nthrée") as program:
        assert program.line() == "one\n"
        assert program.finish() == "two\nthrée"


def test_a_program_that_has_ended_says_nothing() -> None:
    with HERE.started("true") as program:
        assert program.line() == ""
        assert program.finish() == ""


def test_connections_that_never_open_are_a_result() -> None:
    """The time is over before the program could say that all are open."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # the queue's only place
            command = ("send", "127.0.0.1", str(port), "--limit", "1", "--hold")
            with HERE.started(*HERE.module(PROGRAM), *command) as client:
                assert json.loads(client.line()) == {"event": "open"}
                found = json.loads(client.finish(timeout=PATIENCE_S))
    assert [one["error"] for one in found["connections"]] == ["not finished after 1 s"]
