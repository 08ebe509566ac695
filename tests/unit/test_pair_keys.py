"""Keys of pairs of sites: who can sign what, also while an identity is replaced."""

from __future__ import annotations

from itertools import product

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedsdn.uplinks.pair_keys import PairKey, ProbeKeys, pair_keys

A, A_NEW, B, B_NEW, C = (X25519PrivateKey.generate() for _ in range(5))


def public(*keys: X25519PrivateKey) -> list[bytes]:
    return [key.public_key().public_bytes_raw() for key in keys]


def keys(site: str, own: list[X25519PrivateKey], **peers: list[X25519PrivateKey]) -> ProbeKeys:
    """What a site has by its file, and the private halves on its host."""
    made = ProbeKeys(site)
    made.set(own, {name: public(*those) for name, those in peers.items()})
    while made.derive(1):
        pass
    return made


def signing(made: ProbeKeys, peer: str) -> PairKey:
    key = made.signing(peer)
    assert key is not None
    return key


def test_two_sites_have_the_same_keys_one_for_each_direction() -> None:
    a, b = keys("a", [A], b=[B]), keys("b", [B], a=[A])
    there, back = signing(a, "b"), signing(b, "a")
    assert (there.sender, there.receiver, back.sender, back.receiver) == ("a", "b", "b", "a")
    assert b.receiving(there.name) == there
    assert a.receiving(back.name) == back
    assert a.receiving(there.name) is b.receiving(back.name) is None
    assert there.secret != back.secret


def test_a_third_site_has_none_of_them() -> None:
    """Neither of its own keys nor of another name for its own."""
    a = keys("a", [A], b=[B], c=[C])
    for other in (keys("c", [C], a=[A], b=[B]), keys("b", [C], a=[A]), keys("c", [C], a=[A])):
        found = a.receiving(signing(other, "a").name)
        assert found is None or found.sender == "c"
    assert signing(a, "b") != signing(a, "c")


def test_a_key_belongs_to_the_names_and_to_the_identities() -> None:
    made = [
        pair_keys(ours, own, theirs, public(peer)[0])[0].secret
        for (ours, theirs), own, peer in product(
            [("a", "b"), ("b", "a"), ("a", "bb"), ("ab", "b")], [A, A_NEW], [B, B_NEW]
        )
    ]
    assert len(set(made)) == len(made)


def test_the_key_is_not_shown() -> None:
    key = signing(keys("a", [A], b=[B]), "b")
    assert str(key.secret) not in repr(key)


@pytest.mark.parametrize("own", [[A], [A, A_NEW], [A_NEW, A], [A_NEW]])
@pytest.mark.parametrize("listed", [[B], [B, B_NEW], [B_NEW, B], [B_NEW]])
def test_while_identities_are_replaced_every_listed_pair_is_taken(
    own: list[X25519PrivateKey], listed: list[X25519PrivateKey]
) -> None:
    a = keys("a", own, b=listed)
    assert signing(a, "b") == pair_keys("a", own[0], "b", public(*listed)[0])[0]
    for theirs, ours in product(listed, own):
        coming, _ = pair_keys("b", theirs, "a", public(ours)[0])
        assert a.receiving(coming.name) == coming
        replying = a.replying(coming)
        assert keys("b", [theirs], a=[ours]).receiving(replying.name) == replying


def test_a_site_follows_its_peer_to_another_identity() -> None:
    """Whose own file may have that alone, while ours still has the old one first."""
    a, b = keys("a", [A], b=[B, B_NEW]), keys("b", [B_NEW], a=[A])
    assert b.receiving(signing(a, "b").name) is None
    coming = a.receiving(signing(b, "a").name)
    assert coming is not None
    assert b.receiving(a.replying(coming).name) is not None
    a.follow(coming)
    assert b.receiving(signing(a, "b").name) is not None
    a.set([A], {"b": public(B, B_NEW)})
    assert b.receiving(signing(a, "b").name) is not None, "a change of the file keeps that"
    a.set([A], {"b": public(B)})
    assert signing(a, "b") == pair_keys("a", A, "b", public(B)[0])[0]


def test_a_revoked_identity_counts_no_more_and_the_others_stay_as_they_were() -> None:
    a = keys("a", [A], b=[B, B_NEW], c=[C])
    old = signing(keys("b", [B], a=[A]), "a").name
    stays = signing(a, "c")
    assert a.receiving(old) is not None
    a.set([A], {"b": public(B_NEW), "c": public(C)})
    assert not a.derive(0), "nothing is computed twice"
    assert a.receiving(old) is None
    assert signing(a, "c") is stays


def test_a_key_that_is_needed_does_not_wait_for_its_turn() -> None:
    made = ProbeKeys("a")
    made.set([A], {f"peer-{n}": public(B) for n in range(10)})
    key = signing(made, "peer-9")
    assert made.receiving(pair_keys("peer-9", B, "a", public(A)[0])[0].name) is not None
    assert made.derive(8)
    assert not made.is_complete
    assert not made.derive(1)
    assert made.is_complete
    assert signing(made, "peer-9") is key


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), b"short"])
def test_with_a_key_that_is_none_nobody_signs(point: bytes) -> None:
    """With points of low order all sites would compute the same."""
    made = ProbeKeys("a")
    made.set([A], {"b": [point]})
    assert not made.derive(9)
    assert made.signing("b") is None


def test_without_keys_there_are_none() -> None:
    for made in (keys("a", [], b=[B]), keys("a", [A], b=[]), ProbeKeys("a")):
        assert made.signing("b") is None
