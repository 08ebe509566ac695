"""Programs that people use, unchanged."""

from __future__ import annotations

import ftplib
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from fedsdn.bench.behaviour.case import (
    NEVER_OPEN,
    Case,
    Ends,
    accepted,
    both,
    in_thread,
    port_of,
    tell,
)
from fedsdn.bench.behaviour.terminal import Terminal

_LIMIT_SECONDS = 30.0
_SCAN_SECONDS = 90.0
_BIDIR_RUNS = 5
_URGENT = "tcp flags & urg == urg"

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


def _happy_eyeballs(ends: Ends) -> str:
    """Have a name with two addresses, and a server on the second alone."""
    with ends.server.listen(4) as listener:
        serving = in_thread(lambda: _answer_http(listener))
        port = port_of(listener)
        addresses = f"[{ends.server.address(6)}],{ends.server.address(4)}"
        said = ends.client.shell.run(
            *("curl", "--silent", "--show-error", "--max-time", f"{_LIMIT_SECONDS:g}"),
            *("--resolve", f"both.test:{port}:{addresses}", "--noproxy", "*"),
            *("--write-out", " by %{remote_ip}", f"http://both.test:{port}/"),
            timeout=_LIMIT_SECONDS + 5,
        )
        listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept()
        serving.join()
    if said.returncode:
        return f"curl: {said.returncode}"
    return said.stdout.replace(ends.server.address(4), "IPv4").replace(ends.server.address(6), "v6")


def _answer_http(listener: socket.socket) -> None:
    with suppress(OSError), accepted(listener) as server:
        server.recv(1 << 16)
        server.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")


def _scan(kind: str, ends: Ends) -> str:
    """Scan a server with one open port, a host with none, and addresses that nobody has."""
    with ends.listen() as listener:
        opened, other = port_of(listener), NEVER_OPEN
        targets = (ends.address, ends.spare.address(ends.family), *ends.missing[:2])
        names = dict(zip(targets, ("server", "spare", "missing", "missing"), strict=True))
        family = ("-6",) if ends.family == 6 else ()
        said = ends.client.shell.output(
            *("nmap", *family, kind, "-n", "--send-ip", "--max-retries", "3"),
            *("--initial-rtt-timeout", "1s", "-p", f"{opened},{other}", "-oG", "-", *targets),
            timeout=_SCAN_SECONDS,
        )
    found = []
    for address, ports in re.findall(r"^Host: (\S+) .*Ports: ([^\t\n]*)", said, re.MULTILINE):
        states = dict(one.strip().split("/")[:2] for one in ports.split(","))
        found.append(f"{names[address]}: {states[str(opened)]} {states[str(other)]}")
    return ", ".join(found) or "no host"


def _bidirectional(ends: Ends) -> str:
    """Have iperf3 open its control connection and one for each direction, in their order."""
    done = 0
    with ends.server.shell.started("iperf3", "--server", "--forceflush") as server:
        for _ in range(_BIDIR_RUNS):
            # It turns clients away until it has done with the one before.
            while "listening" not in (line := server.line()):
                if not line:
                    server.finish()
            run = ends.client.shell.run(
                *("iperf3", "--client", ends.address, "--bidir", "--time", "1"),
                *("--bitrate", "5M", "--connect-timeout", "5000"),
                timeout=_LIMIT_SECONDS,
            )
            done += run.returncode == 0
    return tell(done, _BIDIR_RUNS)


def _telnet(ends: Ends) -> str:
    """Interrupt a program that runs there, and have a long answer after that."""
    # It asks for the client's name, and there is nobody to answer.
    telnetd = ("env", "RES_OPTIONS=timeout:1 attempts:1", "/usr/sbin/telnetd")
    prefix = ends.client.shell.prefix
    with (
        serving(ends, 23, *telnetd, "--no-hostinfo", "--exec-login", "/bin/sh -i"),
        ends.client.counting(_URGENT, hook="output") as urgent,
        Terminal(*prefix, "inetutils-telnet", "--no-rc") as terminal,
    ):
        terminal.expect("telnet> ")
        terminal.type(f"open {ends.address}\n")
        terminal.expect("# ")
        terminal.type("cat\n")
        terminal.type("cat answers\n")
        terminal.expect("cat answers\r\ncat answers")
        terminal.type("\x1d")
        terminal.expect("telnet> ")
        terminal.type("send ip synch\n")
        terminal.expect("# ")
        marked = urgent.packets > 0
        terminal.type("seq 20000; echo end-$((6*7))\n")
        seen = re.findall(r"^\d+", terminal.expect("end-42"), re.MULTILINE)
        terminal.type("exit\n")
        terminal.expect("closed")
    right = seen == [str(n) for n in range(1, 20_001)]
    return f"{'interrupted' if marked else 'no mark'}, {'all' if right else 'others'}"


def _ftp(ends: Ends) -> str:
    """Abort a transfer, and make another: a server that sends learns of it by the mark alone."""
    with (
        _ftp_site() as settings,
        serving(ends, 21, "/usr/sbin/vsftpd", str(settings)),
        ends.client.counting(_URGENT, hook="output") as urgent,
    ):
        replies, got, small = ends.client.namespace.call(lambda: _ftp_session(ends.address))
        marked = urgent.packets > 0
    early = "stopped" if marked and got < _LARGE_BYTES // 2 else "not stopped"
    return f"{early}, {' '.join(replies)}, {'all' if small == _SMALL else 'others'}"


@contextmanager
def _ftp_site() -> Iterator[Path]:
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


def _ftp_session(address: str) -> tuple[list[str], int, bytes]:
    """Return the replies to the abort, how much still came of the first file, and the second."""
    with ftplib.FTP(timeout=_LIMIT_SECONDS) as ftp:  # noqa: S321 -- its urgent data are meant
        ftp.connect(address)
        ftp.login()
        ftp.voidcmd("TYPE I")
        with ftp.transfercmd("RETR large") as data:
            got = len(data.recv(1))
            assert ftp.sock is not None  # noqa: S101 -- it is connected
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
def serving(ends: Ends, port: int, *command: str) -> Iterator[None]:
    """Have the server run a program for one client, as inetd does: it has the connection alone."""

    def serve() -> None:
        with suppress(TimeoutError), listener.accept()[0] as connection:
            connection.settimeout(None)
            program.append(
                subprocess.Popen(
                    [*ends.server.shell.prefix, *command],
                    stdin=connection.fileno(),
                    stdout=connection.fileno(),
                    stderr=subprocess.DEVNULL,
                )
            )

    program: list[subprocess.Popen[bytes]] = []
    with ends.listen(port) as listener:
        thread = in_thread(serve)
        try:
            yield
        finally:
            thread.join()
            for one in program:
                one.kill()
                one.wait()


_SCANNED = both("server: open closed, spare: closed closed")

CASES = (
    Case("happy eyeballs", "curl to a name with two addresses, of which the first refuses",
         _happy_eyeballs, {6: "hello by IPv4"}, seconds=3),
    Case("nmap -sT", "scan a server, a host without one, and addresses that nobody has",
         partial(_scan, "-sT"), _SCANNED, seconds=15),
    Case("nmap -sS", "scan with SYNs that no kernel knows of", partial(_scan, "-sS"), _SCANNED,
         seconds=15),
    Case("iperf3 --bidir", "connections whose order counts, five times", _bidirectional,
         both("all"), seconds=15),
    Case("telnet", "interrupt a program, then read a long answer", _telnet,
         both("interrupted, all"), seconds=5),
    Case("FTP", "abort a transfer, then make another", _ftp, both("stopped, 426 226, all"),
         seconds=5),
)  # fmt: skip
