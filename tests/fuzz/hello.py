"""The first flight of a TLS handshake: any bytes are refused, or more is waited for.

What ``tls.hello`` lets through goes to OpenSSL, in our server's context, as from the wire.
"""

from __future__ import annotations

import ssl
import tempfile
from contextlib import suppress

import atheris

with atheris.instrument_imports():
    from fedsdn.proxy.tls import hello

from fedsdn.identity.new import make
from fedsdn.proxy.tls.contexts import server_context
from tests.fuzz.run import fuzz

MOST_ANSWERED = 4096
"""Our certificate, and what goes with it."""


def server() -> ssl.SSLContext:
    """Make a context with an identity of its own."""
    context = server_context()
    new = make("b")
    with tempfile.NamedTemporaryFile() as file:
        file.write(new.tls_key + new.public)
        file.flush()
        context.load_cert_chain(file.name)
    return context


SERVER = server()


def flight() -> bytes:
    """Return a client's first flight."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_ecdh_curve("prime256v1")
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="b").do_handshake()
    return outgoing.read()


def one_input(data: bytes) -> None:
    """Read it as the server does."""
    if hello.fault(data[: hello.HEADER_BYTES]):
        return
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(data)
    handshake = SERVER.wrap_bio(incoming, outgoing, server_side=True)
    try:
        handshake.do_handshake()
    except ssl.SSLError:
        assert len(outgoing.read()) <= MOST_ANSWERED
    else:
        raise AssertionError("somebody was let in")


if __name__ == "__main__":
    first = flight()
    assert not hello.fault(first)
    fuzz(one_input, [first, first + b"\x14\x03\x03\x00\x01\x01", first[:64]])
