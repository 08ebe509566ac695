"""A command beside an application of another version: one line that says what to do."""

from __future__ import annotations

import json
import os
import socket
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fedsdn.channel.ask import open_connections
from fedsdn.errors import FedsdnError
from fedsdn.uplinks.status import (
    PathState,
    PathStatus,
    PortState,
    SiteStatus,
    UplinkStatus,
    read_status,
)

RESTART = "restart it .*with the version of this command"


def status() -> dict[str, Any]:
    path = PathStatus("up1", "b", "up1", PathState.UP, 0.0, "probed", 1.0, 0.0)
    uplink = UplinkStatus("up1", PortState.UP, 0.0, 1)
    return asdict(SiteStatus("a", 0.0, (uplink,), (path,)))


def changed(part: str, key: str, value: object) -> dict[str, Any]:
    found = status()
    where = found if not part else found[part][0]
    if value is None:
        del where[key]
    else:
        where[key] = value
    return found


@pytest.mark.parametrize(
    "found",
    [
        changed("uplinks", "colour", "red"),
        changed("uplinks", "endpoint", None),
        changed("uplinks", "port", "sideways"),
        changed("paths", "jitter_ms", 1.0),
        changed("paths", "why", None),
        changed("", "mood", "good"),
        changed("", "paths", None),
    ],
)
def test_a_status_of_another_version_says_so(tmp_path: Path, found: dict[str, Any]) -> None:
    file = tmp_path / "uplinks.json"
    file.write_text(json.dumps(found))
    with pytest.raises(FedsdnError, match=RESTART) as caught:
        read_status(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("found", [status() | {"mood": "good"}, [], {}, "none"])
def test_what_nobody_keeps_writing_is_no_status(tmp_path: Path, found: object) -> None:
    file = tmp_path / "uplinks.json"
    file.write_text(json.dumps(found))
    os.utime(file, (0, 0))
    assert read_status(file) is None


@pytest.mark.parametrize(
    "answer",
    [
        {"result": {"connections": [{"id": 1}], "of": 1}},
        {"result": {"pages": []}},
        {"error": {"code": -32602, "message": "list: Object missing required field `from`"}},
    ],
)
def test_an_application_that_answers_otherwise_is_of_another_version(
    tmp_path: Path, answer: dict[str, Any]
) -> None:
    path = tmp_path / "channel.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1000)
                sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, **answer}).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(FedsdnError, match=RESTART) as caught:
            open_connections(path)
        thread.join()
    assert "\n" not in str(caught.value)


def test_an_application_that_hangs_up_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(FedsdnError, match="does not answer"):
        open_connections(tmp_path / "nobody.sock")
