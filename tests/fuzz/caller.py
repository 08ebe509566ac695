"""What a caller may say before it has proved who it is: any bytes, cut up in any way.

The server takes the greeting or refuses it; it reads nothing beyond what is taken, says nothing but
what the protocol's page has, and ends.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from ipaddress import ip_address

import atheris

with atheris.instrument_imports():
    from fedsdn.proxy.socks import answering, parsing, protocol

from fedsdn.socket_address import SocketAddress
from tests.fuzz.run import fuzz
from tests.unit.federations import two_sites

PEER = two_sites().sites[0]
PEERS = (PEER, replace(PEER, proxy="socks5"))
CALLER = SocketAddress(PEER.uplinks[0].peer_address, 40_000)
VM = SocketAddress(ip_address("10.2.0.11"), 80)
LONGEST = protocol.LONGEST_GREETING + 22
"""A plain greeting and a plain request with an IPv6 address."""

ANSWERS = {
    protocol.SELECTION,
    protocol.PLAIN_SELECTION,
    protocol.NO_METHOD,
    *(protocol.encode_reply(reply) for reply in protocol.Reply),
}
loop = asyncio.new_event_loop()


async def greet(pieces: list[bytes], *, plain: bool) -> None:
    """Say it in pieces to a server, and check what it does."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        dialogue = answering.Dialogue(far, CALLER, PEERS[plain])
        greeting = asyncio.create_task(dialogue.greet())
        said = b""
        for piece in pieces:
            try:
                said += piece[: near.send(piece)]
            except BlockingIOError:
                break  # nobody reads any more
            await asyncio.sleep(0)
        near.shutdown(socket.SHUT_WR)
        answer, taken = b"", False
        try:
            await greeting
            taken = True
        except protocol.SocksError as error:
            answer = error.answer
        left = b""
        while more := far.recv(1 << 16):
            left += more
        read = said[: len(said) - len(left)]
        assert said.endswith(left)
        assert len(read) <= LONGEST, "it reads more than the longest messages"
        if taken:
            check_taken(read, plain=plain)
        assert not answer or answer in ANSWERS
        try:
            said_first = near.recv(1 << 10)
        except BlockingIOError:
            said_first = b""
        assert said_first in {b"", *ANSWERS}


def check_taken(read: bytes, *, plain: bool) -> None:
    """Check that exactly a greeting was read, and of a plain client its request."""
    parse = parsing.parse_plain_greeting if plain else parsing.parse_greeting
    greeting = read[: 2 + read[1]]
    assert parse(greeting) == greeting[2:]
    rest = read[len(greeting) :]
    assert isinstance(parsing.parse_plain_connect(rest), SocketAddress) if plain else not rest


def one_input(data: bytes) -> None:
    """The first octet says how it is cut up, and who is meant to call."""
    if not data:
        return
    how, said = data[0], data[1:]
    size = (how >> 1) + 1
    pieces = [said[start : start + size] for start in range(0, len(said), size)]
    loop.run_until_complete(greet(pieces, plain=bool(how & 1)))


if __name__ == "__main__":
    request = protocol.Request(VM, VM, number=2, after=1).encode()
    GOOD = [
        *(bytes([how]) + protocol.GREETING + request for how in (0, 254)),
        *(bytes([how]) + protocol.PLAIN_GREETING + protocol.encode_connect(VM) for how in (1, 255)),
        b"\xfe\x05\xff" + bytes(range(255)),
        b"\xfeGET / HTTP/1.1\r\n\r\n",
        b"\xfe\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]
    fuzz(one_input, GOOD)
