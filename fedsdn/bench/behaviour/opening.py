"""What ``connect()`` says."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from fedsdn.bench.behaviour.case import (
    NEVER_OPEN,
    Case,
    Difference,
    Ends,
    both,
    error_word,
    in_thread,
    port_of,
    read_exactly,
    tell,
)
from fedsdn.lab.namespaces import connect
from fedsdn.lab.wait import wait_until
from fedsdn.mptcp.connection import tcp_info
from fedsdn.mptcp.info import SYN_DATA

_AT_ONCE_SECONDS = 2.5
"""Less than the kernel waits for a neighbour that is not there, more than a busy machine takes."""
_LIMIT_SECONDS = 9.0
_CHECK_SECONDS = 0.2
DEAD_CHECK = 2
"""A dead backend is to be seen by the next check but one."""
_MOST_CHECKS = 20
_WELL_CHECKS = 2
"""So many in a row, and a backend is up."""
_AGAIN_SECONDS = 0.02
_PORT_BY_BOTH = 42_000
_WAIT = struct.pack("ll", 9, 0)
"""``struct timeval``."""
_OPENING = "tcp flags & (syn | ack) == syn"


def _opened(ends: Ends, address: str, port: int, limit: float = _LIMIT_SECONDS) -> str:
    """Say what ``connect()`` says, and when."""
    with ends.client.open(ends.family) as sock:
        sock.settimeout(limit)
        began = time.monotonic()
        try:
            connect(sock, (address, port))
            said = "accepted"
        except OSError as error:
            said = error_word(error)
        if said == "nothing":
            return said
        return f"{said}, {'at once' if time.monotonic() - began < _AT_ONCE_SECONDS else 'later'}"


def _refused(ends: Ends) -> str:
    return _opened(ends, ends.address, NEVER_OPEN)


def _silent(ends: Ends) -> str:
    with ends.listen() as listener, ends.server.filtering(f"{_OPENING} drop"):
        return _opened(ends, ends.address, port_of(listener))


def _missing(ends: Ends) -> str:
    return _opened(ends, ends.missing[0], 80)


def _late(ends: Ends) -> str:
    """Let the first SYN be lost, and the second be answered."""
    with ends.listen() as listener, ExitStack() as stack:
        lost = stack.enter_context(ends.server.counting(_OPENING, verdict="drop"))
        said: list[str] = []
        opening = in_thread(lambda: said.append(_opened(ends, ends.address, port_of(listener))))
        wait_until(lambda: lost.packets > 0, _LIMIT_SECONDS, lambda: "no SYN came")
        stack.close()
        opening.join()
    return said[0].partition(",")[0]


def _unreachable(kind: str) -> Callable[[Ends], str]:
    def run(ends: Ends) -> str:
        rule = f"{_OPENING} reject with icmpx type {kind}"
        with ends.listen() as listener, ends.server.filtering(rule):
            return _opened(ends, ends.address, port_of(listener))

    return run


def _health(ends: Ends) -> str:
    late = [check for check in dead_checks(ends, ends.lengths.rounds) if is_late(check)]
    return f"later: {late}" if late else "by the next check but one"


def is_late(check: int | None) -> bool:
    """Judge which check was the first to see a death."""
    return check is None or check > DEAD_CHECK


def dead_checks(ends: Ends, rounds: int) -> list[int | None]:
    """Have a backend die so many times, and say which check after that was the first to fail.

    None: never, or two checks in a row never went well before, as they must.
    """
    found: list[int | None] = []
    with ends.listen() as listener:
        port = port_of(listener)
    for _ in range(rounds):
        with ends.listen(port) as listener:
            dropping = in_thread(_accept_and_drop, listener)
            lives = _comes_up(ends, port)
            listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept()
            dropping.join()
        checks = range(1, _MOST_CHECKS) if lives else ()
        found.append(next((n for n in checks if not _check(ends, port)), None))
    return found


def _comes_up(ends: Ends, port: int) -> bool:
    well = 0
    for _ in range(_MOST_CHECKS):
        well = well + 1 if _check(ends, port) else 0
        if well == _WELL_CHECKS:
            return True
    return False


def _check(ends: Ends, port: int) -> bool:
    """Check once as load balancers do: connect, and close; then wait for the next time."""
    time.sleep(_CHECK_SECONDS)
    try:
        ends.connect(port).close()
    except OSError:
        return False
    return True


def _accept_and_drop(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            listener.accept()[0].close()


def _by_both(ends: Ends) -> str:
    """Have both send a SYN before either can hear one."""
    with ExitStack() as stack:
        both_ways = ((ends.client, ends.server), (ends.server, ends.client))
        with ExitStack() as deaf:
            for end, _ in both_ways:
                deaf.enter_context(end.filtering("tcp flags & syn == syn drop"))
            socks = []
            for end, other in both_ways:
                sock = stack.enter_context(end.open(ends.family))
                sock.bind((end.address(ends.family), _PORT_BY_BOTH))
                sock.setblocking(False)
                sock.connect_ex((other.address(ends.family), _PORT_BY_BOTH))
                socks.append(sock)
        return _talk(*socks)


def _talk(one: socket.socket, other: socket.socket) -> str:
    for sock in (one, other):
        sock.settimeout(_LIMIT_SECONDS)
    said = []
    for sender, receiver in ((one, other), (other, one)):
        try:
            _send_when_open(sender, b"hello")
            said.append(read_exactly(receiver, 5) == b"hello")
        except OSError as error:
            return error_word(error)
    return "one connection" if all(said) else "other data"


def _send_when_open(sock: socket.socket, data: bytes) -> None:
    if not select.select([], [sock], [], _LIMIT_SECONDS)[1]:
        raise TimeoutError
    if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(error, os.strerror(error))
    sock.sendall(data)


def _same_port_again(ends: Ends) -> str:
    """Open from the same port, while the server's end of the connection before is in TIME_WAIT."""
    done, port = 0, 0
    with ends.listen() as listener:
        for _ in range(ends.lengths.rounds):
            with _connected_again(ends, port_of(listener), port) as client:
                port = port_of(client)
                server, _ = listener.accept()
                server.close()
                done += client.recv(1) == b""
    return tell(done, ends.lengths.rounds)


def _connected_again(ends: Ends, port: int, source_port: int) -> socket.socket:
    """Connect as soon as the client's kernel is through with the port's last connection."""
    deadline = time.monotonic() + _LIMIT_SECONDS
    while True:
        try:
            return ends.connect(port, source_port)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL or time.monotonic() > deadline:
                raise
        time.sleep(_AGAIN_SECONDS)


def _fast_open(ends: Ends) -> str:
    """Send data with the SYN, at the second time with a cookie (RFC 7413)."""
    with (
        ends.client.sysctls(tcp_fastopen=1),
        ends.server.sysctls(tcp_fastopen=2),
        ends.server.open(ends.family) as listener,
    ):
        listener.bind((ends.address, 0))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
        listener.listen()
        for _ in range(2):
            with ends.client.open(ends.family) as client:
                client.setblocking(True)  # else the handshake is to be waited for
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _WAIT)
                client.sendto(b"hello", socket.MSG_FASTOPEN, listener.getsockname()[:2])
                server, _ = listener.accept()
                with server:
                    server.settimeout(_LIMIT_SECONDS)
                    if read_exactly(server, 5) != b"hello":
                        return "other data"
                    taken = tcp_info(client).options
    return f"data arrive, {'with the SYN' if taken & SYN_DATA else 'after the handshake'}"


def _reserved_ports(ends: Ends) -> str:
    """Use the proxy's own port numbers at both ends."""
    done = []
    for port in _PROXY_PORTS:
        with ends.listen(port) as listener, ends.connect(port, port) as client:
            server, name = listener.accept()
            with server:
                client.sendall(b"hello")
                server.settimeout(_LIMIT_SECONDS)
                if read_exactly(server, 5) == b"hello" and name[1] == port:
                    done.append(str(port))
    return " ".join(done)


_PROXY_PORTS = (1080, 1081, 10176)
_NO_COOKIES = Difference(
    "data arrive, after the handshake", "the proxy gives no cookies: data in a SYN are sent again"
)

CASES = (
    Case("closed port", "connect to a port where nobody listens", _refused,
         both("Connection refused, at once")),
    Case("silent host", "connect to a VM that drops the SYN", _silent, both("nothing"),
         seconds=_LIMIT_SECONDS),
    Case("missing host", "connect to an address of the prefix that nobody has", _missing,
         both("No route to host, later"), seconds=5),
    Case("second SYN", "the first SYN is lost in front of the VM, the second is not", _late,
         both("accepted"), seconds=4),
    Case("ICMP: port", "the VM's firewall says: port unreachable", _unreachable("port-unreachable"),
         both("Connection refused, at once")),
    Case("ICMP: host", "the VM's firewall says: host unreachable", _unreachable("host-unreachable"),
         both("No route to host, at once")),
    Case("ICMP: network", "the VM's firewall says: no route", _unreachable("no-route"),
         both("Network is unreachable, at once")),
    Case("ICMP: prohibited", "the VM's firewall says: administratively prohibited",
         _unreachable("admin-prohibited"),
         {4: "No route to host, at once", 6: "Permission denied, at once"}),
    Case("health check", "a backend dies and comes back, checked every 200 ms", _health,
         both("by the next check but one"), seconds=20),
    Case("opened by both", "each sends its SYN before it has heard the other's", _by_both,
         both("one connection"), seconds=4),
    Case("same port again", "the server's end of the same port's last connection is in TIME_WAIT",
         _same_port_again, both("all")),
    Case("TCP fast open", "data in the SYN, with a cookie", _fast_open,
         both("data arrive, with the SYN"), _NO_COOKIES),
    Case("proxy's ports", "VMs use ports that the proxy has: 1080, 1081, 10176", _reserved_ports,
         both("1080 1081 10176")),
)  # fmt: skip
