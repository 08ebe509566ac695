"""TLS between two proxies: who is let in, sessions, and sockets that behave as others do."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest

from fedsdn.bench.stranger import Kind, said
from fedsdn.identity import new, store
from fedsdn.identity.new import NewIdentity
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.sockets.exchange import readable, receive, send_all
from fedsdn.proxy.sockets.transport import FIRST_SEGMENT_BYTES
from fedsdn.proxy.tls import contexts, handshake, pins
from fedsdn.proxy.tls.contexts import server_context
from fedsdn.proxy.tls.secured import TlsError
from tests.unit.federations import own_identity
from tests.unit.loopback import asynchronous, tcp_pair
from tests.unit.tls_ends import (
    FEDERATION,
    A,
    B,
    C,
    meeting,
    met,
    tls_of,
    with_identities,
)

RECORD = b"\x17\x03\x03\x00\x40"
"""The header of a record with 64 octets (RFC 8446, section 5.2)."""


def made(patch: pytest.MonkeyPatch, name: str, begins: int, ends: int) -> NewIdentity:
    """An identity whose certificate is valid between so many days from now on."""
    with patch.context() as patched:
        patched.setattr(new, "_EARLIER", -timedelta(days=begins))
        patched.setattr(new, "LIFE", timedelta(days=ends))
        return new.make(name)


# Who is let in


@asynchronous
async def test_both_ends_know_who_the_other_is(tmp_path: Path) -> None:
    async with met(tls_of(tmp_path, A), tls_of(tmp_path, B)) as (begun, answered):
        assert begun.version() == "TLSv1.3"
        assert begun.shown == answered.proven == A.identities[0].fingerprint
        assert begun.proven == answered.shown == B.identities[0].fingerprint


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [(-10, -1, "has expired"), (1, 10, "not yet valid")],
)
@pytest.mark.parametrize("bad", ["client", "server"])
@asynchronous
async def test_a_certificate_has_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: int, ends: int, words: str, bad: str
) -> None:
    name = "a" if bad == "client" else "b"
    own = made(monkeypatch, name, begins, ends)
    federation = with_identities(FEDERATION, **{name: (own.identity,)})
    ends_of = {one.name: own if one.name == name else None for one in (A, B)}
    client, server = (tls_of(tmp_path, one, federation, own=ends_of[one.name]) for one in (A, B))
    with pytest.raises(TlsError, match=words) as refused:
        await meeting(client, server)
    assert refused.value.reason is Reason.CERTIFICATE


@pytest.mark.parametrize("bad", ["client", "server"])
@asynchronous
async def test_a_certificate_that_the_file_does_not_have_is_refused(
    tmp_path: Path, bad: str
) -> None:
    """Even if it has the name of one that it has."""
    name = "a" if bad == "client" else "b"
    own = new.make(name)
    forger = with_identities(FEDERATION, **{name: (own.identity,)})
    forged = tls_of(tmp_path / "forged", A if bad == "client" else B, forger, own=own)
    true = tls_of(tmp_path, B if bad == "client" else A)
    with pytest.raises(TlsError) as refused:
        await meeting(*((forged, true) if bad == "client" else (true, forged)))
    assert (refused.value.reason, refused.value.who) == (Reason.CERTIFICATE, Who.HERE)


@asynchronous
async def test_another_sites_certificate_is_not_the_peers(tmp_path: Path) -> None:
    """The connection is for site b, or comes from its address, and site c answers, or calls."""
    a, c = tls_of(tmp_path, A), tls_of(tmp_path, C)
    with pytest.raises(TlsError, match="that of site c"):
        await meeting(a, c, peer=A, called=B)
    with pytest.raises(TlsError, match="that of site c"):
        await meeting(c, a, peer=B, called=A)


@asynchronous
async def test_who_shows_no_certificate_is_refused(tmp_path: Path) -> None:
    server = tls_of(tmp_path, B)
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    near, far = tcp_pair()
    with bare.wrap_socket(near, do_handshake_on_connect=False) as caller:
        with pytest.raises(ssl.SSLWantReadError):
            caller.do_handshake()
        meeting = asyncio.create_task(server.prove(server.called(far, A), A))
        while not meeting.done():
            with suppress(ssl.SSLWantReadError):
                caller.do_handshake()
            await asyncio.sleep(0.005)
    with pytest.raises(TlsError, match="no certificate") as refused:
        await meeting
    assert (refused.value.reason, refused.value.who) == (Reason.CERTIFICATE, Who.HERE)


@pytest.mark.parametrize(
    "words", [b"\x05\x01\x80", b"GET / HTTP/1.1\r\n\r\n", bytes(700), b"\x16\xff"]
)
@asynchronous
async def test_what_is_no_tls_is_a_protocol_error(tmp_path: Path, words: bytes) -> None:
    near, far = tcp_pair()
    server = tls_of(tmp_path, B)
    with near, far:
        near.send(words + bytes(16))
        await readable(far)
        with pytest.raises(TlsError) as refused:
            await server.prove(server.called(far, A), A)
    assert refused.value.reason is Reason.PROTOCOL


@asynchronous
async def test_the_other_side_does_not_choose_what_a_step_costs(tmp_path: Path) -> None:
    """A share of a large group costs a hundred times as much as one of ours."""
    near, far = tcp_pair()
    server, client = tls_of(tmp_path, B), tls_of(tmp_path, A)
    with near, far:
        near.send(said(Kind.COSTLY_HELLO))
        await readable(far)
        with pytest.raises(TlsError, match="no suitable key share"):
            await server.prove(server.called(far, A), A)
    near, far = tcp_pair()
    another = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    another.load_cert_chain(*store.load(tmp_path / "b")[0].tls_files())
    another.set_ecdh_curve("secp521r1")
    with near, another.wrap_socket(far, server_side=True, do_handshake_on_connect=False) as called:
        calling = asyncio.create_task(client.prove(client.calling(near, B), B))
        await readable(called)
        with pytest.raises(ssl.SSLError):
            called.do_handshake()
        with pytest.raises(TlsError, match="handshake failure"):
            await calling


@pytest.mark.parametrize(
    ("most", "words"), [(8192, "more than 8192 octets"), (1 << 20, "excessive message size")]
)
@asynchronous
async def test_a_long_chain_of_certificates_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, words: str
) -> None:
    """Whether it is there when the step begins, or comes while that reads."""
    monkeypatch.setattr(handshake, "MOST_BYTES", most)
    server = tls_of(tmp_path, B)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(own_identity("a").tls_key + own_identity("a").public * 100)
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    bare.load_cert_chain(chain)
    near, far = tcp_pair()
    with bare.wrap_socket(near, do_handshake_on_connect=False) as caller:
        with pytest.raises(ssl.SSLWantReadError):
            caller.do_handshake()
        await readable(far)
        meeting = asyncio.create_task(server.prove(server.called(far, A), A))
        while caller.version() is None or not caller.getpeercert(binary_form=True):
            await readable(caller)
            with suppress(ssl.SSLWantReadError):
                caller.do_handshake()
        with pytest.raises(TlsError, match=words) as refused:
            await meeting
    assert refused.value.reason is Reason.PROTOCOL


@pytest.mark.parametrize("caller", [True, False])
@asynchronous
async def test_silence_is_a_callers_fault_and_not_a_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, caller: bool
) -> None:
    """A path may have been lost on the way to a server; a caller has a path, it has spoken."""
    monkeypatch.setattr(handshake, "HANDSHAKE_SECONDS", 0.01)
    near, far = tcp_pair()
    with near, far:
        near.send(said(Kind.HELLO))
        await readable(far)
        tls = tls_of(tmp_path, B if caller else A)
        sock = tls.called(far, A) if caller else tls.calling(near, B)
        with sock, pytest.raises(OSError, match="no handshake within") as late:
            await tls.prove(sock, A if caller else B)
    assert isinstance(late.value, TlsError if caller else TimeoutError)


@asynchronous
async def test_a_path_that_is_lost_meanwhile_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tls_of(tmp_path, A)
    near, far = tcp_pair()
    with far, client.calling(near, B) as begun:
        lost = OSError(errno.ETIMEDOUT, "Connection timed out")
        monkeypatch.setattr(begun, "do_handshake", Mock(side_effect=lost))
        with pytest.raises(TimeoutError, match="Connection timed out"):
            await client.prove(begun, B)


@asynchronous
async def test_a_site_that_left_is_nobody_though_openssl_knows_its_certificate(
    tmp_path: Path,
) -> None:
    client, server = tls_of(tmp_path, A), tls_of(tmp_path, B)
    async with met(client, server) as (begun, _):
        assert begun.session is not None
    server.take(Policy.at(with_identities(FEDERATION, a=(new.make("a").identity,)), "b"))
    with pytest.raises(TlsError, match="no site's"):
        await meeting(client, server)  # a resumed session


def test_a_resumed_session_does_not_outlive_its_certificate() -> None:
    now, certificate = datetime.now(UTC), A.identities[0].certificate
    assert pins.site_of(certificate, FEDERATION, now) == A
    for days, words in ((4000, "expired"), (-2, "not yet valid")):
        with pytest.raises(TlsError, match=words):
            pins.site_of(certificate, FEDERATION, now + timedelta(days=days))


# Sessions


@asynchronous
async def test_a_session_is_resumed_by_any_worker(tmp_path: Path) -> None:
    """They share what the first process made; each has its own certificates and store."""
    shared = server_context()
    client, server = tls_of(tmp_path, A), tls_of(tmp_path, B, server=shared)
    resumed = []
    for _ in range(3):
        async with met(client, server) as (begun, answered):
            resumed.append((begun.session_reused, answered.session_reused))
            assert (begun.proven, answered.proven) == (answered.shown, begun.shown)
    assert resumed == [(False, False), (True, True), (True, True)]
    async with met(client, tls_of(tmp_path, B)) as (begun, _):
        assert not begun.session_reused  # of another program, whose ticket keys are others


@asynchronous
async def test_a_peer_gets_a_ticket_if_one_of_its_workers_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "_TICKETS_SECONDS", 0.0)
    client, server = tls_of(tmp_path, A), tls_of(tmp_path, B)
    for tickets in (1, 0):
        async with met(client, server) as (begun, _):
            assert server._server.num_tickets == tickets
            assert begun.session_reused is not bool(tickets)
    monkeypatch.undo()
    another = tls_of(tmp_path, A)
    for resumed in (False, False, True):
        async with met(another, server) as (begun, _answered):
            assert begun.session_reused is resumed


@asynchronous
async def test_a_client_hello_fits_into_the_first_segment(tmp_path: Path) -> None:
    """With a ticket, too, which has our certificate in it."""
    client, server = tls_of(tmp_path, A), tls_of(tmp_path, B)
    async with met(client, server):
        pass
    longest = 0
    for _ in range(2):
        near, far = tcp_pair()
        begun = asyncio.create_task(client.prove(client.calling(near, B), B))
        hello = b""
        while not hello:
            await asyncio.sleep(0.005)
            try:
                hello = far.recv(1 << 16)
            except BlockingIOError:
                continue
        longest = max(longest, len(hello))
        begun.cancel()
        far.close()
        await asyncio.gather(begun, return_exceptions=True)
    own = client._own
    assert own is not None
    assert len(own.identity.certificate) < longest <= FIRST_SEGMENT_BYTES


# The socket


@asynchronous
async def test_reads_return_several_records_and_then_nothing(tmp_path: Path) -> None:
    async with met(tls_of(tmp_path, A), tls_of(tmp_path, B)) as (begun, answered):
        for part in (b"one", b"two", b"three"):
            begun.send(part)
        received = b""
        while len(received) < 11:
            received += await receive(answered, 100)
        assert received == b"onetwothree"
        with pytest.raises(BlockingIOError):
            answered.recv(1)
        begun.send(b"four")
        assert [await receive(answered, 2) for _ in range(2)] == [b"fo", b"ur"]


@asynchronous
async def test_a_full_socket_takes_up_where_it_was(tmp_path: Path) -> None:
    data = bytes(range(256)) * 256
    async with met(tls_of(tmp_path, A), tls_of(tmp_path, B)) as (begun, answered):
        whole = 0
        try:
            while True:
                assert begun.send(data) == len(data)
                whole += 1
        except BlockingIOError:
            pass
        rest = asyncio.create_task(send_all(begun, data))
        received = bytearray()
        while len(received) < (whole + 1) * len(data):
            received += await receive(answered, 1 << 16)
        await rest
        assert received == data * (whole + 1)


@asynchronous
async def test_what_came_before_the_end_is_read_first(tmp_path: Path) -> None:
    """An end of the connection is one, with or without TLS's word for it."""
    async with met(tls_of(tmp_path, A), tls_of(tmp_path, B)) as (begun, answered):
        begun.send(b"last words")
        begun.close()
        assert [await receive(answered, 100) for _ in range(3)] == [b"last words", b"", b""]
        with pytest.raises(BrokenPipeError):  # noqa: PT012  (the first is answered by a reset)
            while True:
                await send_all(answered, b"and mine")
                await asyncio.sleep(0.005)


@asynchronous
async def test_a_changed_record_is_an_error_behind_what_came_before(tmp_path: Path) -> None:
    async with met(tls_of(tmp_path, A), tls_of(tmp_path, B)) as (begun, answered):
        begun.send(b"true")
        socket.socket.send(begun, RECORD + bytes(64))
        assert await receive(answered, 4) == b"true"
        with pytest.raises(TlsError, match="bad record mac"):
            await receive(answered, 100)


@asynchronous
async def test_a_truncated_record_is_not_passed_on(tmp_path: Path) -> None:
    async with met(tls_of(tmp_path, A), tls_of(tmp_path, B)) as (begun, answered):
        begun.send(b"true")
        socket.socket.send(begun, RECORD + bytes(10))
        begun.close()
        assert [await receive(answered, 100) for _ in range(2)] == [b"true", b""]


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR])
@asynchronous
async def test_nothing_is_in_clear_when_one_direction_is_shut_down(
    tmp_path: Path, how: int
) -> None:
    async with met(tls_of(tmp_path, A), tls_of(tmp_path, B)) as (begun, answered):
        begun.shutdown(how)
        reader, writer = (answered, begun) if how == socket.SHUT_RD else (begun, answered)
        writer.send(b"secret")
        assert await receive(reader, 100) == b"secret"


@asynchronous
async def test_nothing_is_peeked_at(tmp_path: Path) -> None:
    async with met(tls_of(tmp_path, A), tls_of(tmp_path, B)) as (begun, answered):
        begun.send(b"x")
        await readable(answered)
        with pytest.raises(ValueError, match="flags"):
            answered.recv(1, socket.MSG_PEEK)
        assert await receive(answered, 1) == b"x"
