"""What arrives of what is sent, and how a connection ends."""

from __future__ import annotations

import random
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from fedsdn.bench.behaviour.case import (
    Case,
    Ends,
    accepted,
    both,
    error_word,
    in_thread,
    port_of,
    read_all,
    read_exactly,
    tell,
)
from fedsdn.lab.wait import wait_until
from fedsdn.proxy.sockets.tcp import at_urgent_octet, unacknowledged

_LIMIT_SECONDS = 30.0
_RESET = struct.pack("ii", 1, 0)
"""``struct linger``: closing resets."""
_LINGERING = struct.pack("ii", 1, 20)
_LARGE = random.Random(1).randbytes(300_000)  # noqa: S311 -- no secret
_TINY_WRITES = 1000
_BURST = 65_536


def _urgent_in_the_middle(ends: Ends) -> str:
    seen = []
    with ends.connected() as pair:
        for sender, receiver in (pair, pair[::-1]):
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            sender.sendall(b"abc")
            sender.send(b"!", socket.MSG_OOB)
            sender.sendall(b"def")
            seen.append(read_exactly(receiver, 7).decode())
    return ", ".join(seen)


def _urgent_mark(ends: Ends) -> str:
    """Read up to the mark: what comes before it, and the byte itself (tcp(7))."""
    with ends.connected() as (client, server):
        client.sendall(b"abc")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"def")
        if not select.select([], [], [server], _LIMIT_SECONDS)[2]:
            return "no mark"
        urgent = server.recv(1, socket.MSG_OOB)
        before = bytearray()
        while not at_urgent_octet(server) and (data := server.recv(1)):
            before += data
        return f"{before.decode()} {urgent.decode()} {read_exactly(server, 3).decode()}"


def _urgent_at_the_end(ends: Ends) -> str:
    with ends.connected() as (client, server):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        client.sendall(b"abc")
        client.send(b"!", socket.MSG_OOB)
        client.close()
        read, ending = read_all(server)
    return f"{read.decode()}, {ending}"


def _half_close(ends: Ends) -> str:
    """Have each end say everything at once, and the other only much later; both at a time."""
    seen = []
    with ends.connected() as (client, server), ends.connected() as (other, other_server):
        quiet = ((client, server), (other_server, other))
        for sender, receiver in quiet:
            sender.sendall(b"question")
            sender.shutdown(socket.SHUT_WR)
            seen.append(read_all(receiver) == (b"question", "end"))
        time.sleep(ends.lengths.half_closed)
        for sender, receiver in quiet:
            receiver.sendall(b"answer")
            receiver.close()
            seen.append(read_all(sender) == (b"answer", "end"))
    return tell(sum(seen), len(seen))


def _unread_input(ends: Ends) -> str:
    """Answer the beginning of a request, and close: as HTTP 413, SMTP and Redis do."""
    answer, whole = b"413 Payload Too Large".ljust(3000), 0
    for _ in range(ends.lengths.rounds):
        with ends.connected() as (client, server):
            client.sendall(b"POST" + bytes(20_000))
            read_exactly(server, 4)
            server.sendall(answer)
            server.close()
            whole += read_all(client) == (answer, "reset")
    return f"{tell(whole, ends.lengths.rounds)} answers, then a reset"


def _reset_before_accept(ends: Ends) -> str:
    with ends.listen() as listener:
        client = ends.connect(port_of(listener))
        client.sendall(b"hello")
        _wait_acknowledged(client)
        _reset(client)
        with accepted(listener) as server:
            _wait_until_ended(server)
            read, ending = read_all(server)
    return f"accepted, {len(read)} bytes, {ending}"


def _reset_after(size: int) -> Callable[[Ends], str]:
    def run(ends: Ends) -> str:
        seen = []
        with ends.connected() as (client, server), ends.connected() as (other, other_server):
            for sender, receiver in ((client, server), (other_server, other)):
                sending = in_thread(_send_and_reset, sender, _LARGE[:size])
                read, ending = read_all(receiver)
                sending.join()
                seen.append(f"{tell(len(read), size) if size else 'nothing'}, {ending}")
        return seen[0] if seen[0] == seen[1] else " / ".join(seen)

    return run


def _send_and_reset(sock: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        sock.sendall(data)
        _wait_acknowledged(sock)
    _reset(sock)


def _reset_half_closed(ends: Ends) -> str:
    with ends.connected() as (client, server):
        client.shutdown(socket.SHUT_WR)
        read_all(server)
        _reset(server)
        return read_all(client)[1]


def _write_after_reset(ends: Ends) -> str:
    """Write to who has gone: the first is taken, a later one is not."""
    with ends.connected() as (client, server):
        server.close()
        if read_all(client)[1] != "end":
            return "no end"
        deadline = time.monotonic() + _LIMIT_SECONDS
        while time.monotonic() < deadline:
            try:
                client.sendall(b"x")
            except OSError as error:
                return error_word(error)
            select.select([], [], [client], 0.05)
    return "nothing"


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def _wait_acknowledged(sock: socket.socket) -> None:
    """Wait until the other kernel has all."""
    wait_until(lambda: not unacknowledged(sock), _LIMIT_SECONDS, lambda: "it is not acknowledged")


def _wait_until_ended(sock: socket.socket) -> None:
    """Wait until the kernel knows of the end, whatever there is to be read before."""
    ended = select.poll()
    ended.register(sock, select.POLLRDHUP)
    ended.poll(_LIMIT_SECONDS * 1000)


def _tiny_writes(ends: Ends) -> str:
    """Send bytes one by one; each is answered before the next."""
    echoed = bytearray()
    with ends.connected() as pair:
        for sock in pair:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client, server = pair
        for number in range(_TINY_WRITES // 10):
            client.sendall(bytes([number]))
            server.sendall(read_exactly(server, 1))
            echoed += read_exactly(client, 1)
        for number in range(_TINY_WRITES):
            client.send(bytes([number % 251]))
        client.shutdown(socket.SHUT_WR)
        rest, ending = read_all(server)
    right = rest == bytes(number % 251 for number in range(_TINY_WRITES))
    return f"{tell(len(echoed), _TINY_WRITES // 10)}, {'all' if right else 'others'}, {ending}"


def _server_first(ends: Ends) -> str:
    with ends.connected() as (client, server):
        server.sendall(b"220 ready")
        return read_exactly(client, 9).decode()


def _stalled_reader(ends: Ends) -> str:
    """Fill the connection, read nothing for long, then read all."""
    sent = bytearray()
    chunk = _LARGE[:65_536]
    with ends.connected() as (client, server):
        client.setblocking(False)
        end = time.monotonic() + ends.lengths.stalled
        while (left := end - time.monotonic()) > 0:
            if select.select([], [client], [], left)[1]:
                with suppress(BlockingIOError):
                    sent += chunk[: client.send(chunk)]
        client.settimeout(_LIMIT_SECONDS)
        client.shutdown(socket.SHUT_WR)
        read, ending = read_all(server)
    return f"{'all' if read == sent else f'{len(read)} of {len(sent)} bytes'}, {ending}"


def _burst(ends: Ends) -> str:
    whole = 0
    for _ in range(ends.lengths.rounds):
        with ends.connected() as (client, server):
            _send_and_close(client, _LARGE[:_BURST])
            whole += read_all(server) == (_LARGE[:_BURST], "end")
    return tell(whole, ends.lengths.rounds)


def _send_and_close(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.close()


def _lingering(ends: Ends) -> str:
    """Close with data under way, and wait for them (socket(7), SO_LINGER)."""
    with ends.connected() as (client, server):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGERING)
        closing = in_thread(_send_and_close, client, _LARGE)
        read, ending = read_all(server)
        closing.join()
    return f"{tell(len(read), len(_LARGE))}, {ending}"


CASES = (
    Case("urgent data", "in the middle of others, read in line, both ways", _urgent_in_the_middle,
         both("abc!def, abc!def")),
    Case("urgent mark", "read up to the mark, then the urgent byte", _urgent_mark,
         both("abc ! def")),
    Case("urgent end", "the urgent byte is the last before the end", _urgent_at_the_end,
         both("abc!, end")),
    Case("half-close", "one end has said everything long before the other, both ways", _half_close,
         both("all"), seconds=100),
    Case("unread input", "the server answers and closes with input unread", _unread_input,
         both("all answers, then a reset")),
    Case("reset: unaccepted", "the client resets before the server accepts", _reset_before_accept,
         both("accepted, 5 bytes, reset")),
    Case("reset: at once", "either end resets before any data", _reset_after(0),
         both("nothing, reset")),
    Case("reset: after 1", "either end resets after a byte", _reset_after(1), both("all, reset")),
    Case("reset: after 300 kB", "either end resets after 300 kB", _reset_after(len(_LARGE)),
         both("all, reset")),
    Case("reset: half-closed", "the server resets when the client has said everything",
         _reset_half_closed, both("reset")),
    Case("write to nobody", "the client writes on after the server has closed", _write_after_reset,
         both("reset")),
    Case("one-byte writes", "with TCP_NODELAY, one by one and in a row", _tiny_writes,
         both("all, all, end"), seconds=6),
    Case("server first", "the server speaks first", _server_first, both("220 ready")),
    Case("stalled reader", "fill the connection, and read all after a long time", _stalled_reader,
         both("all, end"), seconds=60),
    Case("burst", "64 kB in one write, then close", _burst, both("all"), seconds=3),
    Case("linger", "close waits for the data under way", _lingering, both("all, end")),
)  # fmt: skip
