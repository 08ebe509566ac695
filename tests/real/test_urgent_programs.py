"""Programs that use urgent data, between two sites as between neighbours: telnet and FTP."""

from __future__ import annotations

import ftplib
import os
import pty
import re
import select
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fedsdn.lab.lab import Lab
from tests.real.test_proxy_lab import LIMIT_SECONDS, Vm, wait_until_all_ended

pytestmark = pytest.mark.real

INTERRUPT, MARK = b"\xff\xf4", b"\xff\xf2"
"""Telnet's IAC IP and IAC DM (RFC 854); the client sends the mark's IAC as urgent (RFC 959)."""

_LARGE_BYTES = 1 << 30
_SMALL = bytes(range(256)) * 1000
_FTP_SETTINGS = """
listen=NO
listen_ipv6=NO
anonymous_enable=YES
no_anon_password=YES
anon_root={root}
secure_chroot_dir={root}/empty
async_abor_enable=YES
xferlog_enable=NO
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
"""


@pytest.fixture(params=["near", "far"])
def ends(request: pytest.FixtureRequest, lab: Lab, family: int) -> Iterator[tuple[Vm, Vm]]:
    """Return two VMs of one site, and of two sites: the same must be true of both."""
    yield (
        Vm(lab, "a", "vm1", family),
        Vm(lab, *{"near": ("a", "vm2"), "far": ("b", "vm2")}[request.param], family),
    )
    wait_until_all_ended(lab)


def test_telnet_interrupts_and_goes_on(ends: tuple[Vm, Vm]) -> None:
    client, server = ends
    # It asks for the client's name, and there is nobody to answer.
    telnetd = ("env", "RES_OPTIONS=timeout:1 attempts:1", "/usr/sbin/telnetd")
    with (
        serving(server, 23, *telnetd, "--no-hostinfo", "--exec-login", "/bin/sh -i"),
        urgent_segments(client) as urgent,
        Terminal(*client.host.vm_prefix(client.name), "inetutils-telnet", "--no-rc") as terminal,
    ):
        terminal.expect("telnet> ")
        terminal.type(f"open {server.address}\n")
        terminal.expect("# ")
        terminal.type("cat\n")
        terminal.type("cat answers\n")
        terminal.expect("cat answers\r\ncat answers")
        terminal.type("\x1d")
        terminal.expect("telnet> ")
        terminal.type("send ip synch\n")
        terminal.expect("# ")
        assert urgent() > 0
        terminal.type("seq 20000; echo end-$((6*7))\n")
        seen = terminal.expect("end-42")
        assert re.findall(r"^\d+", seen, re.MULTILINE) == [str(n) for n in range(1, 20_001)]
        terminal.type("exit\n")
        terminal.expect("closed")


def test_ftp_aborts_and_goes_on(ends: tuple[Vm, Vm]) -> None:
    """The server learns of ABOR while it sends by the urgent mark alone."""
    client, server = ends
    with (
        ftp_site() as settings,
        serving(server, 21, "/usr/sbin/vsftpd", str(settings)),
        urgent_segments(client) as urgent,
    ):
        replies, got, small = client.namespace.call(lambda: ftp_session(server.address))
        assert urgent() > 0
    assert replies == ["426", "226"]
    assert got < _LARGE_BYTES // 2
    assert small == _SMALL


@contextmanager
def ftp_site() -> Iterator[Path]:
    """Make files that anybody may read, not only root; give the server's settings."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "empty").mkdir()
        with (root / "large").open("wb") as large:
            large.truncate(_LARGE_BYTES)
        (root / "small").write_bytes(_SMALL)
        settings = root / "vsftpd.conf"
        settings.write_text(_FTP_SETTINGS.format(root=root).lstrip())
        yield settings


def ftp_session(address: str) -> tuple[list[str], int, bytes]:
    """Abort a transfer, and make another.

    Return the replies to the abort, how much still came of the first, and the second.
    """
    with ftplib.FTP(timeout=LIMIT_SECONDS) as ftp:  # noqa: S321 -- its urgent data are meant
        ftp.connect(address)
        ftp.login()
        ftp.voidcmd("TYPE I")
        with ftp.transfercmd("RETR large") as data:
            got = len(data.recv(1))
            assert ftp.sock is not None
            ftp.sock.sendall(INTERRUPT)
            ftp.sock.send(MARK[:1], socket.MSG_OOB)
            ftp.sock.sendall(MARK[1:] + b"ABOR\r\n")
            while more := data.recv(1 << 20):
                got += len(more)
        replies = [ftp.getmultiline()[:3] for _ in range(2)]
        small = bytearray()
        ftp.retrbinary("RETR small", small.extend)
    return replies, got, bytes(small)


@contextmanager
def serving(vm: Vm, port: int, *command: str) -> Iterator[None]:
    """Have a VM run a program for one client, as inetd does: the connection is all it has."""

    def serve() -> None:
        with listener.accept()[0] as connection:
            connection.settimeout(None)
            program.append(
                subprocess.Popen(
                    [*vm.host.vm_prefix(vm.name), *command],
                    stdin=connection.fileno(),
                    stdout=connection.fileno(),
                    stderr=subprocess.DEVNULL,
                )
            )

    program: list[subprocess.Popen[bytes]] = []
    with vm.namespace.listen(vm.address, port) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join()
            for one in program:
                one.kill()
                one.wait()


@contextmanager
def urgent_segments(vm: Vm) -> Iterator[Callable[[], int]]:
    """Count the segments with urgent data that a VM sends."""

    def count() -> int:
        found = re.search(r"packets (\d+)", vm.run("nft list table inet test"))
        assert found is not None
        return int(found[1])

    vm.run("nft add table inet test")
    try:
        vm.run("nft add chain inet test leaving { type filter hook output priority 0 ; }")
        vm.run("nft add rule inet test leaving tcp flags & urg == urg counter")
        yield count
    finally:
        vm.run("nft delete table inet test")


class Terminal:
    """A program on a terminal of its own, and somebody who types."""

    def __init__(self, *command: str) -> None:
        with ExitStack() as stack:
            self._terminal, program_side = pty.openpty()
            stack.callback(os.close, program_side)
            self._program = subprocess.Popen(
                ["setsid", "--ctty", "--wait", *command],
                stdin=program_side,
                stdout=program_side,
                stderr=program_side,
                env={**os.environ, "TERM": "dumb"},
            )
        self._shown = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()
        self._program.wait()
        os.close(self._terminal)

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        os.write(self._terminal, text.encode())

    def expect(self, text: str) -> str:
        """Wait until the terminal shows something; return all since the last time."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while text not in self._shown:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._terminal], [], [], left)[0]:
                pytest.fail(f"{text!r} is not shown, but {self._shown[-200:]!r}")
            self._shown += os.read(self._terminal, 1 << 16).decode()
        before, _, self._shown = self._shown.partition(text)
        return before
