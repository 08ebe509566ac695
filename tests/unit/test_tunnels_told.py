"""In which order interfaces are told, and what one that refuses does to the others."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Iterator, Set
from dataclasses import replace
from ipaddress import ip_interface

import pytest

from fedsdn.config.model import Federation
from fedsdn.errors import FedsdnError
from fedsdn.identity.new import make
from fedsdn.tunnels import configure, sessions
from fedsdn.tunnels.configuration import Identities, Seen, SeenPeer
from fedsdn.tunnels.configure import Memory, RefusedError, sync
from fedsdn.tunnels.plan import Tunnel, renumbered, tunnels
from fedsdn.tunnels.sessions import Heard
from tests.unit.federations import own_identity, private_keys, two_sites

PRIVATE, OWN = private_keys("a").tunnels, own_identity("a").identity.tunnel_key


NOBODY = frozenset[tuple[str, str]]()


class Interfaces:
    """WireGuard's: each has a port, which no other can have, and peers."""

    def __init__(self, *names: str) -> None:
        self.ports = dict.fromkeys(names, 0)
        self.configurations: dict[str, str] = {}
        self.peers: dict[str, str] = {}
        """A peer of an interface, as it is shown."""
        self.removed: list[tuple[str, str]] = []
        self.hung: set[str] = set()
        self.waited: dict[str, list[float]] = {}
        """For how many seconds nothing was answered."""
        self.own = OWN
        self.handshakes: dict[str, str] = {}
        """What is said of them when they are asked for once more."""

    def wg(self, command: str, name: str, *words: str, text: str = "", seconds: float = 5.0) -> str:
        if command == "show" and name == "interfaces":
            return " ".join(self.ports)
        if name in self.hung or (name == "all" and self.hung):
            self.waited.setdefault(name, []).append(seconds)
        if name in self.hung or (name == "all" and self.hung):
            raise FedsdnError(f"{name} has no answer")
        if words == ("latest-handshakes",):
            key, *_, when, _, _, _ = self.peers[name].split("\t")
            return f"{key}\t{self.handshakes.get(name, when)}"
        if command == "show":
            shown = self.ports if name == "all" else (name,)
            every = (f"{one}\t{line}" for one in shown for line in self._shown(one))
            return "\n".join(line if name == "all" else line.partition("\t")[2] for line in every)
        if words[0] == "peer":
            self.removed.append((name, words[1]))
            return ""
        if command == "set":
            self.ports[name] = int(words[1])
            return ""
        (port,) = (
            int(line.split()[2]) for line in text.splitlines() if line.startswith("ListenPort")
        )
        if port in {one for other, one in self.ports.items() if other != name}:
            raise RefusedError(f"{name}: Address already in use")
        self.ports[name] = port
        self.configurations[name] = text
        return ""

    def _shown(self, name: str) -> Iterator[str]:
        key, own = (b64encode(one).decode() for one in (PRIVATE, self.own))
        yield f"{key}\t{own}\t{self.ports[name]}\toff"
        if name in self.peers:
            yield self.peers[name]


def wanted(federation: Federation) -> dict[str, Tunnel]:
    found = tunnels(federation, federation.site("a"))
    return {one.name: one for one in found}


def told(
    planned: dict[str, Tunnel],
    kernel: Interfaces,
    memory: Memory,
    live: Set[tuple[str, str]] = NOBODY,
) -> tuple[str, ...]:
    return sync(PRIVATE, planned, live, kernel.wg, memory)


def with_an_uplink_that_sorts_first() -> Federation:
    a, b = two_sites().sites
    first = next(one for one in a.uplinks if one.address.version == 4)
    address = ip_interface((first.address.ip + 7, first.address.network.prefixlen))
    new = replace(first, name="a-first", port="eth-first", address=address)
    return replace(two_sites(), sites=(replace(a, uplinks=(new, *a.uplinks)), b))


def test_an_uplink_that_sorts_first_gives_the_others_other_ports() -> None:
    before, after = wanted(two_sites()), wanted(with_an_uplink_that_sorts_first())
    assert {one.port for one in before.values()} & {
        one.port for name, one in after.items() if name not in before
    }, "a new interface gets a port that an old one has"
    kernel, memory = Interfaces(*before), Memory()
    told(before, kernel, memory)
    kernel.ports |= dict.fromkeys(after.keys() - before.keys(), 0)
    assert set(told(after, kernel, memory)) == set(after)
    assert kernel.ports == {name: one.port for name, one in after.items()}


def test_uplinks_that_get_another_number_are_named() -> None:
    new = with_an_uplink_that_sorts_first()
    assert renumbered(two_sites(), new) == renumbered(new, two_sites()) == {"a": ("up1", "up2")}
    assert renumbered(new, new) == {}


def test_one_that_does_not_answer_keeps_none_of_the_others_from_what_they_are_told() -> None:
    planned = wanted(two_sites())
    first, *others = planned
    kernel = Interfaces(*planned)
    kernel.hung.add(first)
    with pytest.raises(FedsdnError, match=f"{first} has no answer"):
        told(planned, kernel, Memory())
    assert set(kernel.configurations) == set(others)


def test_one_that_hangs_is_asked_now_and_then_and_delays_the_others_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = wanted(two_sites())
    first, second = planned
    kernel, memory = Interfaces(*planned), Memory()
    kernel.hung.add(first)
    for _ in range(3):
        with pytest.raises(FedsdnError, match=f"{first} has no answer"):
            told(planned, kernel, memory)
        assert memory.seen.keys() == {second}
    assert kernel.waited == {"all": [5], first: [5]}
    monkeypatch.setattr(configure, "_HUNG_SECONDS", 0.0)
    memory.hung[first] = replace(memory.hung[first], again=0.0)
    with pytest.raises(FedsdnError, match=f"{first} has no answer"):
        told(planned, kernel, memory)
    assert kernel.waited == {"all": [5], first: [5, 1]}
    kernel.hung.clear()
    told(planned, kernel, memory)
    assert kernel.configurations.keys() == memory.seen.keys() == {first, second}
    kernel.hung.add("all")
    kernel.waited.clear()
    told(planned, kernel, memory)
    assert kernel.waited == {"all": [5]}, "all are asked together again"


def keeps(kernel: Interfaces) -> dict[str, bool]:
    """Which interfaces are told of keepalives."""
    return {
        name: "PersistentKeepalive = 25" in text for name, text in kernel.configurations.items()
    }


def test_a_session_begins_where_a_path_lives_and_its_peer_is_made_anew_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "_AGAIN_SECONDS", 1000.0)  # longer than a busy machine pauses
    planned = wanted(two_sites())
    first, second = planned
    kernel, memory = Interfaces(*planned), Memory()
    key = b64encode(own_identity("b").identity.tunnel_key).decode()
    for name in planned:
        words = "(none)", "192.0.2.2:51820", "10.2.0.0/24,fd00:2::/64", "0", "0", "0", "off"
        kernel.peers[name] = "\t".join((key, *words))
    told(planned, kernel, memory)
    assert keeps(kernel) == {first: False, second: False}
    assert kernel.removed == []
    told(planned, kernel, memory, {(second, "b")})
    assert keeps(kernel) == {first: False, second: True}
    assert kernel.removed == [(second, key)]
    assert memory.heard == {(name, "b"): Heard(0, None) for name in planned}
    told(planned, kernel, memory, {(second, "b")})
    assert kernel.removed == [(second, key)], "the next attempt has time"


def test_a_peer_with_which_a_session_has_just_begun_is_not_made_anew() -> None:
    planned = wanted(two_sites())
    first, second = planned
    kernel = Interfaces(*planned)
    key = b64encode(own_identity("b").identity.tunnel_key).decode()
    for name in planned:
        words = "(none)", "192.0.2.2:51820", "10.2.0.0/24,fd00:2::/64", "0", "0", "0", "off"
        kernel.peers[name] = "\t".join((key, *words))
    kernel.handshakes[first] = "1795770000"
    told(planned, kernel, Memory(), {(first, "b"), (second, "b")})
    assert kernel.removed == [(second, key)]


def test_sessions_begin_anew_when_another_private_key_is_in_force() -> None:
    """That key ends them; the first keepalive begins others, and nobody says that they are gone."""
    planned = wanted(two_sites())
    kernel, memory = Interfaces(*planned), Memory()
    key = b64encode(own_identity("b").identity.tunnel_key).decode()
    now = str(int(time.time()))
    for name in planned:
        words = "(none)", "192.0.2.2:51820", "10.2.0.0/24,fd00:2::/64", now, "0", "0", "25"
        kernel.peers[name] = "\t".join((key, *words))
    kernel.own = own_identity("b").identity.tunnel_key
    told(planned, kernel, memory)
    assert keeps(kernel) == dict.fromkeys(planned, False)
    kernel.own = OWN
    kernel.peers = {name: f"{text[:-2]}off" for name, text in kernel.peers.items()}
    told(planned, kernel, memory)
    assert keeps(kernel) == dict.fromkeys(planned, True)
    assert kernel.removed == []


@pytest.mark.parametrize(
    ("old", "new", "rotating"),
    [(1000, None, True), (1000, 1001, False), (None, None, False), (700, None, False)],
    ids=["before", "after", "without a session", "its session has ended"],
)
def test_a_rotation_is_looked_for_while_the_new_identity_has_no_session(
    old: int | None, new: int | None, *, rotating: bool
) -> None:
    a, b = two_sites().sites
    added = make("b").identity
    federation = replace(two_sites(), sites=(a, replace(b, identities=(*b.identities, added))))
    keys = (b.identities[0].tunnel_key, old), (added.tunnel_key, new)
    peers = tuple(SeenPeer(key, None, frozenset(), 0, when, 0, 0) for key, when in keys)
    memory = Memory(seen={"t1-up1": Seen(OWN, 51820, 0, peers)})
    memory.look_for_rotations(federation, 1010)
    assert memory.rotating is rotating
    memory.look_for_rotations(two_sites(), 1010)
    assert not memory.rotating


def test_tunnels_are_worked_out_again_only_for_something_else() -> None:
    memory, federation, identities = Memory(), two_sites(), Identities()
    first = memory.planned(federation, "a", identities)
    assert memory.planned(federation, "a", identities) is first
    assert memory.planned(federation, "a", Identities()) is not first
