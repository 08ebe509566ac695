"""SOCKS off the wire: any stream gives a message or a refusal, in few reads of few bytes."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import atheris

with atheris.instrument_imports():
    from fedsdn.proxy.socks import parsing
    from fedsdn.proxy.socks import protocol as socks

from fedsdn.socket_address import SocketAddress
from tests.fuzz.run import fuzz

PARSERS: tuple[Callable[[bytes], object], ...] = (
    parsing.parse_greeting,
    parsing.parse_selection,
    parsing.parse_request,
    parsing.parse_reply,
    parsing.parse_plain_greeting,
    parsing.parse_plain_selection,
    parsing.parse_plain_connect,
)
MOST_READS = 8
LONGEST = 3 + 1 + 1 + 255 + 2
"""A reply with a bound name; a greeting is shorter."""


def read(parse: Callable[[bytes], object], stream: bytes, piece: int) -> tuple[object, int]:
    """Read a message as the proxy does, some bytes at a time; return it, and how many it took."""
    seen, reads = b"", 0
    while True:
        try:
            found = parse(seen)
        except socks.SocksError as error:
            return (str(error), error.answer), len(seen)
        if not isinstance(found, int):
            return found, len(seen)
        assert found > 0, "it waits for nothing"
        more = stream[len(seen) : len(seen) + min(found, piece)]
        if not more:
            return None, len(seen)
        seen += more
        reads += 1
        assert len(seen) <= LONGEST, "it takes more than the longest message"
        assert piece < LONGEST or reads <= MOST_READS, "it reads in crumbs"


def one_input(data: bytes) -> None:
    """Read the same stream at once and octet by octet: it must be the same message."""
    for parse in PARSERS:
        whole, taken = read(parse, data, LONGEST)
        in_pieces, taken_in_pieces = read(parse, data, 1)
        assert whole == in_pieces
        assert taken_in_pieces <= taken
        if isinstance(whole, socks.Request):
            assert parsing.parse_request(whole.encode()) == whole


if __name__ == "__main__":
    VMS = [SocketAddress(ip_address(text), 80) for text in ("10.1.0.11", "fd00:2::11")]
    GOOD = [
        *(socks.Request(vm, vm, number=2, after=1).encode() for vm in VMS),
        *(socks.encode_connect(vm) for vm in VMS),
        socks.encode_reply(socks.Reply.REFUSED),
        socks.PLAIN_GREETING,
        socks.GREETING,
        socks.SELECTION,
    ]
    fuzz(one_input, GOOD)
