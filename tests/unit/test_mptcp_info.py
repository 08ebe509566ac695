"""The kernel's structures of TCP and MPTCP are known to one package."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

import fedsdn
from fedsdn.mptcp import info

PACKAGE = Path(fedsdn.__path__[0])
KERNEL = re.compile(
    r"TCP_INFO\b|SOL_MPTCP|SOCK_DIAG|NETLINK_(GENERIC|SOCK_DIAG)|mptcp_pm\b|\b262\b|\b284\b"
)


def test_nobody_else_speaks_to_the_kernel_about_mptcp() -> None:
    sources = set(PACKAGE.rglob("*.py"))
    inside = {path for path in sources if path.is_relative_to(PACKAGE / "mptcp")}
    assert any(KERNEL.search(path.read_text()) for path in inside)
    found = [path for path in sources - inside if KERNEL.search(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("name", "offset", "code"),
    [
        ("state", 0, "B"),
        ("snd_mss", 16, "I"),
        ("unacked", 24, "I"),
        ("rtt", 68, "I"),
        ("snd_cwnd", 80, "I"),
        ("pacing_rate", 104, "Q"),
        ("bytes_acked", 120, "Q"),
        ("min_rtt", 148, "I"),
        ("bytes_sent", 200, "Q"),
    ],
)
def test_fields_are_where_linux_has_them(name: str, offset: int, code: str) -> None:
    packed = bytearray(info.TCP_INFO_BYTES)
    struct.pack_into("=" + code, packed, offset, 201)
    expected = dict.fromkeys(info.TcpInfo._fields, 0) | {name: 201}
    assert info.unpack_tcp_info(bytes(packed))._asdict() == expected


def test_a_structure_of_an_older_kernel_is_no_value() -> None:
    with pytest.raises(struct.error):
        info.unpack_tcp_info(bytes(104))
