"""Records off the wire: any stream gives the same ones however it is cut up, or is refused."""

from __future__ import annotations

import atheris

with atheris.instrument_imports():
    from fedsdn.proxy.relay.records import Kind, Parser, RecordError, record

from tests.fuzz.run import fuzz

Found = list[tuple[Kind, int]]


def read(stream: bytes, piece: int) -> tuple[Found, str]:
    """Take the records off a stream, so many bytes at a time; return them, and what is wrong."""
    parser = Parser()
    found: Found = []
    for start in range(0, len(stream), piece):
        left = memoryview(stream)[start : start + piece]
        while left:
            if parser.left:
                taken = min(parser.left, len(left))
                parser.left -= taken
            else:
                try:
                    taken, one = parser.header(left)
                except RecordError as error:
                    return found, str(error)
                if one is not None:
                    found.append(one)
            assert taken > 0, "it makes no progress"
            left = left[taken:]
    return found, ""


def one_input(data: bytes) -> None:
    """Read the same stream at once and octet by octet; write what was read, and read that."""
    whole = read(data, len(data) or 1)
    assert whole == read(data, 1)
    found, _ = whole
    headers = [record(kind, value) for kind, value in found if kind is not Kind.DATA]
    assert read(b"".join(headers), 3)[0] == [one for one in found if one[0] is not Kind.DATA]


if __name__ == "__main__":
    GOOD = [
        record(Kind.DATA, 5) + b"hello" + record(Kind.CONSUMED, 5) + record(Kind.END),
        record(Kind.URGENT) + record(Kind.DATA, 1) + b"!" + record(Kind.SEEN),
        record(Kind.SILENT, 1) + record(Kind.SILENT, 0) + record(Kind.RESET),
    ]
    fuzz(one_input, GOOD)
