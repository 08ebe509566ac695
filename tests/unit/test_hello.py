"""The beginning of a ClientHello: what is handed to OpenSSL, and what is not."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest

from fedsdn.proxy.tls.hello import HEADER_BYTES, LONGEST, fault


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="b").do_handshake()
    return outgoing.read()


def test_what_openssl_says_first_is_taken() -> None:
    assert fault(client_hello()[:HEADER_BYTES]) == ""


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"GET / HTTP/1.1", "it begins with 47, not with TLS"),
        (b"", "it begins with , not with TLS"),
        (b"\x16", "its first segment has 1 octets"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "its first segment has 8 octets"),
        (b"\x16\x03\x01\x00\x00\x01\x00\x01\xfc", "a record of 0 octets"),
        (b"\x16\x03\x01\xff\xff\x01\x00\x01\xfc", "a record of 65535 octets"),
        (b"\x16\x03\x01\x02\x00\x02\x00\x01\xfc", "a handshake message of type 2 comes first"),
        (b"\x16\x03\x01\x02\x00\x01\x02\x01\x44", "a ClientHello of 131396 octets"),
        (b"\x16\x03\x01\x40\x00\x01\x00" + (LONGEST + 1).to_bytes(2, "big"), "a ClientHello of"),
    ],
)
def test_anything_else_is_not(first: bytes, words: str) -> None:
    assert fault(first).startswith(words)
