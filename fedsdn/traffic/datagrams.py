"""The test program for datagrams: an ordinary UDP program that knows nothing of fedsdn.

::

    python -m fedsdn.traffic.datagrams serve 10.2.0.11 15001 15002
    python -m fedsdn.traffic.datagrams ask 10.2.0.11 15001 --bytes 9000
    python -m fedsdn.traffic.datagrams stream 10.2.0.11 15001 --flows 4 --seconds 10
    python -m fedsdn.traffic.datagrams resolve 10.2.0.11 15002 --name vm.example

``serve`` answers datagrams on the first port with themselves, and questions of DNS on the second;
it ends when its standard input does. ``ask`` has one datagram answered, ``stream`` many of several
flows, ``resolve`` a question. Standard output is one JSON object per line.
"""

from __future__ import annotations

import argparse
import errno
import json
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from ipaddress import ip_address

from fedsdn.traffic import dns
from fedsdn.traffic.echoes import LEAST_BYTES, Answered, Echo, Stream, answer, message, read

_MOST_BYTES = 65_507
_BUFFER = 1 << 20
_SO_RCVBUFFORCE = 33
"""Beyond what ``net.core.rmem_max`` allows (socket(7); Python has no name for it)."""

_AT_ONCE = 64
"""Most datagrams taken from one socket before the others have their turn."""

_ANSWER_SECONDS = 1.0
"""Nobody waits longer for an answer before it asks again."""

_LOOK_SECONDS = 0.1
"""How long it takes at most to see that the last answer has come."""

_MTU_DISCOVER = {
    socket.AF_INET: (socket.IPPROTO_IP, 10),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23),
}
"""``IP_MTU_DISCOVER``, ``IPV6_MTU_DISCOVER`` (ip(7), ipv6(7)): Python has no names for them."""
_MTU = {socket.AF_INET: (socket.IPPROTO_IP, 14), socket.AF_INET6: (socket.IPPROTO_IPV6, 24)}
_ALWAYS = 2
"""``IP_PMTUDISC_DO``: nobody fragments, this host neither."""
_HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
"""Bytes of IP and UDP before the data."""


def _bound(address: str, port: int) -> socket.socket:
    sock = _socket(address)
    sock.bind((address, port))
    return sock


def _connected(address: str, port: int) -> socket.socket:
    sock = _socket(address)
    sock.connect((address, port))
    return sock


def _socket(address: str) -> socket.socket:
    """Make a socket that loses nothing while this program has to wait for the processor."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    return sock


def serve(options: argparse.Namespace) -> None:
    """Answer until standard input ends."""
    with (
        _bound(options.address, options.port) as echoes,
        _bound(options.address, options.dns_port) as questions,
    ):
        print(json.dumps({"event": "listening"}), flush=True)
        end = time.monotonic() + options.limit
        while (rest := end - time.monotonic()) > 0:
            ready, _, _ = select.select([echoes, questions, sys.stdin], [], [], rest)
            if sys.stdin in ready:
                return
            if echoes in ready:
                for data, caller in _waiting(echoes):
                    _say(echoes, answer(data, caller[0], caller[1]), caller)
            if questions in ready:
                for data, caller in _waiting(questions):
                    _say(questions, dns.answer(data, options.address), caller)


def _waiting(sock: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    """Take what has come, but not more than ``_AT_ONCE``."""
    for _ in range(_AT_ONCE):
        try:
            yield sock.recvfrom(_MOST_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return


def _say(sock: socket.socket, said: bytes | None, caller: tuple[str, int]) -> None:
    if said is not None:
        sock.sendto(said, caller)


def ask(options: argparse.Namespace) -> None:
    """Send a datagram until it is answered, with others' word for the MTU."""
    found = Echo(size=options.bytes)
    with _connected(options.address, options.port) as sock:
        family = sock.family
        if options.whole:
            sock.setsockopt(*_MTU_DISCOVER[family], _ALWAYS)
        found.local = sock.getsockname()[:2]
        end = time.monotonic() + options.limit
        while found.seen is None and (rest := end - time.monotonic()) > 0:
            found.tries += 1
            try:
                _ask_once(sock, found, min(rest, _ANSWER_SECONDS))
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    found.error = error.strerror
                    break
                # The kernel has learnt the path's MTU, and cuts the next one, if it may.
                found.mtu = sock.getsockopt(*_MTU[family])
                if options.whole:
                    found.size = min(found.size, found.mtu - _HEADERS[family])
    if found.seen is None and found.error is None:
        found.error = "no answer"
    print(json.dumps(asdict(found)))


def _ask_once(sock: socket.socket, found: Echo, seconds: float) -> None:
    """Send one datagram, and take its answer.

    Raises:
        OSError: the kernel will not send it, or was told why nothing comes.

    """
    sent = message(found.tries, found.size)
    sock.send(sent)
    sock.settimeout(seconds)
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        sock.settimeout(rest)
        try:
            came = read(sock.recv(_MOST_BYTES))
        except TimeoutError:
            return
        if came is not None and came.number == found.tries:
            found.seen = came.seen
            found.intact = came.same_as(sent)
            return


def stream(options: argparse.Namespace) -> None:
    """Send at a steady pace on each flow, and say what became of all datagrams of each."""
    with ExitStack() as stack:
        socks = [
            stack.enter_context(_connected(options.address, options.port))
            for _ in range(options.flows)
        ]
        flows = [Stream(sock.getsockname()[1], options.interval) for sock in socks]
        by_sock = dict(zip(socks, flows, strict=True))
        print(json.dumps({"event": "open", "ports": [flow.port for flow in flows]}), flush=True)
        start = due = time.monotonic()
        count = int(options.seconds / options.interval)
        for number in range(count):
            sent = message(number, options.bytes)
            for sock, flow in by_sock.items():
                _send_one(sock, flow, number, sent, start)
            # What was late is not made up for: a burst fills queues, and is lost there.
            due = max(due + options.interval, time.monotonic())
            _take(by_sock, start, due)
        end = time.monotonic() + options.wait
        while time.monotonic() < end and not all(flow.complete for flow in flows):
            _take(by_sock, start, min(end, time.monotonic() + _LOOK_SECONDS))
    views = [flow.view() for flow in flows]
    print(json.dumps({"event": "done", "flows": [asdict(view) for view in views]}))


def _send_one(sock: socket.socket, flow: Stream, number: int, data: bytes, start: float) -> None:
    try:
        sock.send(data)
    except OSError as error:  # what the kernel was told about an earlier one
        flow.refused(error.strerror or str(error))
    flow.sent(number, time.monotonic() - start)


def _take(by_sock: dict[socket.socket, Stream], start: float, until: float) -> None:
    """Take answers until a time, and no longer than that though they never end.

    Those that are there are taken after that time, too: who sends too slowly would else leave them
    in the socket until it is full.
    """
    rest = 1.0
    while rest:
        rest = max(0.0, until - time.monotonic())
        ready, _, _ = select.select(list(by_sock), [], [], rest)
        for sock in ready:
            _take_from(sock, by_sock[sock], start)


def _take_from(sock: socket.socket, flow: Stream, start: float) -> None:
    for _ in range(_AT_ONCE):
        try:
            came = read(sock.recv(_MOST_BYTES, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return
        except OSError as error:
            flow.refused(error.strerror or str(error))
            continue
        if came is not None:
            flow.came(came.number, time.monotonic() - start)


def resolve(options: argparse.Namespace) -> None:
    """Ask for a name's addresses until somebody answers."""
    found = Answered()
    kind = dns.kind_of(options.address)
    with _connected(options.address, options.port) as sock:
        end = time.monotonic() + options.limit
        while not found.addresses and found.error is None and time.monotonic() < end:
            found.tries += 1
            sock.settimeout(_ANSWER_SECONDS)
            try:
                sock.send(dns.question(found.tries, options.name, kind))
                found.addresses = dns.addresses(sock.recv(_MOST_BYTES), found.tries)
            except TimeoutError:
                continue
            except OSError as error:
                found.error = error.strerror
    if not found.addresses and found.error is None:
        found.error = "no answer"
    print(json.dumps(asdict(found)))


def _size(text: str) -> int:
    value = int(text)
    if not LEAST_BYTES <= value <= _MOST_BYTES:
        raise argparse.ArgumentTypeError(f"{text}: write {LEAST_BYTES} to {_MOST_BYTES}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="datagrams", description="UDP test program")
    commands = parser.add_subparsers(required=True)
    server = commands.add_parser("serve", help="answer datagrams, and questions of DNS")
    server.add_argument("address")
    server.add_argument("port", type=int)
    server.add_argument("dns_port", type=int)
    server.add_argument("--limit", type=float, default=600, help="end after so many seconds")
    server.set_defaults(command=serve)
    for name, command in (("ask", ask), ("stream", stream), ("resolve", resolve)):
        client = commands.add_parser(name, help=str(command.__doc__).splitlines()[0])
        client.add_argument("address")
        client.add_argument("port", type=int)
        client.set_defaults(command=command)
        if name != "resolve":
            client.add_argument("--bytes", type=_size, default=1000, help="of UDP's data")
        if name != "stream":
            client.add_argument("--limit", type=float, default=10, help="give up after so long")
    asking, streaming, resolving = (commands.choices[name] for name in ("ask", "stream", "resolve"))
    asking.add_argument("--whole", action="store_true", help="never in fragments")
    streaming.add_argument("--flows", type=int, default=1)
    streaming.add_argument("--interval", type=float, default=0.01, help="seconds")
    streaming.add_argument("--seconds", type=float, default=5.0)
    streaming.add_argument("--wait", type=float, default=1.0, help="seconds, for the last answers")
    resolving.add_argument("--name", default="vm.example")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except OSError as error:
        sys.exit(f"datagrams: {error}")


if __name__ == "__main__":
    main()
