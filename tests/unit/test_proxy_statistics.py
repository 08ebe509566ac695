"""Reading a running proxy's statistics: of this version, of another, and cut off."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedsdn.errors import FedsdnError
from fedsdn.proxy.process.stats_socket import read_statistics
from fedsdn.proxy.stats import Statistics

Read = Callable[[bytes], dict[str, int]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read what a proxy answers that sends these bytes."""

    def answered(data: bytes) -> dict[str, int]:
        path = tmp_path / "proxy.sock"

        def answer(listener: socket.socket) -> None:
            with listener.accept()[0] as connection:
                connection.sendall(data)

        with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as threads:
            listener.bind(str(path))
            listener.listen()
            threads.submit(answer, listener)
            return read_statistics(path)

    return answered


def test_this_version_is_read(read: Read) -> None:
    totals = Statistics(2).totals()
    assert read(json.dumps(totals).encode()) == totals


def test_a_newer_proxy_that_counts_more_is_read(read: Read) -> None:
    totals = Statistics(2).totals() | {"something_new": 5}
    assert read(json.dumps(totals).encode())["workers"] == 2


@pytest.mark.parametrize(
    "found",
    [{"workers": 2, "outbound": 5}, {}, [], None, 7],
)
def test_another_version_is_one_line_that_says_so(read: Read, found: object) -> None:
    with pytest.raises(FedsdnError, match="another version of fedsdn: have it become") as raised:
        read(json.dumps(found).encode())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("data", [b"", b'{"workers": 2, "outb', b"\xff\xfe"])
def test_an_answer_that_is_cut_off_is_one_line(read: Read, data: bytes) -> None:
    with pytest.raises(FedsdnError, match="answer is cut off"):
        read(data)
