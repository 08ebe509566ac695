"""TLS between two proxies while a site replaces its keys."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from fedsdn.errors import FinalError
from fedsdn.identity import new, store
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.sockets.exchange import readable, receive, send_all
from fedsdn.proxy.tls import contexts
from fedsdn.proxy.tls.contexts import Tls, server_context
from tests.unit.federations import unencrypted
from tests.unit.loopback import asynchronous, tcp_pair
from tests.unit.tls_ends import (
    FEDERATION,
    A,
    B,
    meeting,
    met,
    own_files,
    tls_of,
    with_identities,
)


@asynchronous
async def test_a_new_identity_is_shown_from_then_on(tmp_path: Path) -> None:
    fresh = new.make("a")
    both = with_identities(FEDERATION, a=(fresh.identity, *A.identities))
    client, server = tls_of(tmp_path, A), tls_of(tmp_path, B)
    async with met(client, server) as (before, _):
        for one in (client, server):
            one.take(Policy.at(both, one.policy.site.name))
        async with met(client, server) as (begun, _):
            assert begun.shown == before.shown  # this host has no other yet
        own_files(tmp_path / "a", fresh)
        client.take(client.policy)
        async with met(client, server) as (begun, answered):
            assert begun.shown == answered.proven == fresh.identity.fingerprint
            assert not begun.session_reused
        assert client.still_counts(before, "b")
        client.take(Policy.at(with_identities(FEDERATION, a=(fresh.identity,)), "a"))
        assert not client.still_counts(before, "b")


@asynchronous
async def test_a_session_of_before_the_change_is_not_resumed(tmp_path: Path) -> None:
    """The peer's answer comes when the file has changed already, here or at the peer."""
    client, server = tls_of(tmp_path, A), tls_of(tmp_path, B)
    fresh = {name: new.make(name) for name in "ab"}
    for name, own in fresh.items():
        begun, answered = await meeting(client, server)
        with begun, answered:
            identities = {one: (fresh[one].identity,) for one in fresh if one <= name}
            own_files(tmp_path / name, own)
            for end in (client, server):
                end.take(Policy.at(with_identities(FEDERATION, **identities), end.policy.site.name))
            await send_all(answered, b"hello")
            assert await receive(begun, 100) == b"hello"
            client.remember(begun, B)
        async with met(client, server) as (again, _):
            assert not again.session_reused


@asynchronous
async def test_a_peer_that_replaces_its_identity_proves_it_each_time(tmp_path: Path) -> None:
    """So that nothing is under way that the old one proves, when the old one leaves the file."""
    client, server = tls_of(tmp_path, A), tls_of(tmp_path, B)
    fresh = new.make("b")
    own_files(tmp_path / "b", fresh)
    both = with_identities(FEDERATION, b=(*B.identities, fresh.identity))
    async with met(client, server):
        for end in (client, server):
            end.take(Policy.at(both, end.policy.site.name))
    begun, answered = await meeting(client, server, called=both.site("b"))
    with begun, answered:
        assert not begun.session_reused
        assert begun.proven == B.identities[0].fingerprint
    server.take(Policy.at(with_identities(FEDERATION, b=(fresh.identity,)), "b"))
    begun, answered = await meeting(client, server, called=both.site("b"))
    with begun, answered:
        assert begun.proven == fresh.identity.fingerprint


@pytest.mark.parametrize("damage", ["another's", "cut off", "root's"])
@asynchronous
async def test_keys_that_cannot_be_used_change_nothing(tmp_path: Path, damage: str) -> None:
    """At the server either, where OpenSSL drops the former key before it fails."""
    fresh = new.make("b")
    both = with_identities(FEDERATION, b=(fresh.identity, *B.identities))
    client, server = tls_of(tmp_path, A, both), tls_of(tmp_path, B, both)
    own = store.save(tmp_path / "b", fresh)
    if damage == "root's":
        os.chown(own.tls_key_file, 0, 0)
    else:
        own.tls_key_file.write_bytes(new.make("b").tls_key if damage == "another's" else b"")
    with pytest.raises(FinalError, match=str(own.tls_key_file)):
        server.take(server.policy)
    with pytest.raises(FinalError, match=str(own.tls_key_file)):
        contexts.check_own(server.policy, lambda: store.load(tmp_path / "b"))
    async with met(client, server) as (begun, answered):
        assert begun.proven == answered.shown == B.identities[0].fingerprint
    own_files(tmp_path / "b", fresh)
    server.take(server.policy)
    client.forget(B)
    async with met(client, server) as (begun, answered):
        assert begun.proven == answered.shown == fresh.identity.fingerprint


@asynchronous
async def test_a_session_that_shows_the_former_identity_is_not_kept(tmp_path: Path) -> None:
    """Though the federation file has that still, so that it is not noted as the new one."""
    fresh = new.make("a")
    both = with_identities(FEDERATION, a=(fresh.identity, *A.identities))
    client, server = tls_of(tmp_path, A, both), tls_of(tmp_path, B, both)
    begun, answered = await meeting(client, server)
    with begun, answered:
        await send_all(answered, b"hello")
        assert await receive(begun, 100) == b"hello"
        own_files(tmp_path / "a", fresh)
        client.take(client.policy)
        client.remember(begun, B)
    async with met(client, server) as (again, end):
        assert again.shown == end.proven == fresh.identity.fingerprint


@asynchronous
async def test_what_is_shown_is_settled_when_the_handshake_begins(tmp_path: Path) -> None:
    fresh = new.make("a")
    both = with_identities(FEDERATION, a=(fresh.identity, *A.identities))
    client, server = tls_of(tmp_path, A, both), tls_of(tmp_path, B, both)
    near, far = tcp_pair()
    with client.calling(near, B) as begun:
        own_files(tmp_path / "a", fresh)
        client.take(client.policy)
        proving = asyncio.create_task(client.prove(begun, B))
        await readable(far)
        with server.called(far, A) as answered:
            await asyncio.gather(proving, server.prove(answered, A))
            assert begun.shown == answered.proven == A.identities[0].fingerprint


def test_a_host_without_its_keys_is_told_so(tmp_path: Path) -> None:
    policy = Policy.at(FEDERATION, "a")
    with pytest.raises(FinalError, match="identity init"):
        Tls(server_context(), lambda: store.load(tmp_path / "none"), policy)
    Tls(
        server_context(),
        lambda: store.load(tmp_path / "none"),
        Policy.at(unencrypted(FEDERATION), "a"),
    )


@asynchronous
async def test_a_connection_with_tls_is_not_used_where_the_file_says_none(tmp_path: Path) -> None:
    client, server = tls_of(tmp_path, A), tls_of(tmp_path, B)
    async with met(client, server) as (begun, _):
        assert client.is_as_now(begun, "b")
        client.take(Policy.at(unencrypted(FEDERATION), "a"))
        assert not client.is_as_now(begun, "b")


def test_a_plain_connection_counts_where_the_file_says_so(tmp_path: Path) -> None:
    a = tls_of(tmp_path, A)
    with socket.socket() as plain:
        assert not a.still_counts(plain, "b")
        a.take(Policy.at(unencrypted(FEDERATION), "a"))
        assert a.still_counts(plain, "b")
        assert a.is_as_now(plain, "b")
        assert not a.still_counts(plain, "nobody")
