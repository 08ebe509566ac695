"""A tunnel of which one end has lost its state, and the other knows nothing of it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.real.cables import Joined, joined
from tests.unit.federations import own_identity, private_keys

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("wireguard-go") is None, reason="needs wireguard-go"),
]

OWN_DIRECTORY = """
mkdir -p /run/wireguard
mount -t tmpfs none /run/wireguard
exec "$0" "$@"
"""
"""So that two programs with one name are not in each other's way (``ip netns exec`` makes a new
mount namespace)."""
ANSWER_OCTETS, GRAIN = 92, 16
"""An end that has begun a session has heard so much, and then packets: 32 octets and what they
carry, filled up (the WireGuard paper, section 5.4). The other has heard 148."""
ADDRESSES = {"a": "10.1.0.2", "b": "10.2.0.2"}
PORT = 5353
OTHER = {"a": "b", "b": "a"}


class End:
    """One end of the tunnel, and a socket there."""

    def __init__(self, space: Joined, program: subprocess.Popen[str], address: str) -> None:
        self._program = program
        self.socket = space.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.socket.bind((address, PORT))
        self.socket.settimeout(0.1)

    def ask(self, what: str) -> str:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(f"{what}\n")
        self._program.stdin.flush()
        return self._program.stdout.readline()

    def heard(self) -> tuple[int, int]:
        """Return when the last session began, 0 for never, and how many bytes have come."""
        began, octets = map(int, self.ask("heard").split())
        return began, octets

    def gets(self) -> bool:
        try:
            self.socket.recv(100)
        except TimeoutError:
            return False
        return True


@contextmanager
def kept(space: Joined, site: str) -> Iterator[End]:
    address = ADDRESSES[site]
    space.run("ip", "link", "set", "lo", "up")
    space.run("ip", "address", "add", f"{address}/32", "dev", "lo")
    keys = private_keys(site).tunnels, own_identity(OTHER[site]).identity.tunnel_key
    command = [
        *("ip", "netns", "exec", space.name, "sh", "-ec", OWN_DIRECTORY),
        *(sys.executable, "-m", "tests.real.tunnel_end", space.name, site),
        *(key.hex() for key in keys),
    ]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as program:
        end = End(space, program, address)
        with end.socket:
            yield end
        assert program.stdin is not None
        program.stdin.close()


def reached(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"


@pytest.fixture(scope="module")
def ends() -> Iterator[dict[str, End]]:
    with ExitStack() as stack:
        spaces = stack.enter_context(joined([[("192.0.2.1/24", "192.0.2.2/24")]]))
        yield {
            site: stack.enter_context(kept(space, site))
            for site, space in zip("ab", spaces, strict=True)
        }


def arrives(ends: dict[str, End], sender: str) -> None:
    """Send, one way, until something arrives."""
    receiver = OTHER[sender]

    def arrived() -> bool:
        ends[sender].socket.sendto(b"x", (ADDRESSES[receiver], PORT))
        return ends[receiver].gets()

    reached(arrived)


@pytest.mark.parametrize("loser", ["b", "a"])
def test_the_end_that_has_lost_its_session_begins_another(ends: dict[str, End], loser: str) -> None:
    """Whichever has, though the other says nothing, has a session, and would send by it."""
    reached(lambda: all(end.heard()[0] for end in ends.values()))
    ends[loser].ask("lose")
    reached(lambda: bool(ends[loser].heard()[0]))
    _, octets = ends[loser].heard()
    assert octets % GRAIN == ANSWER_OCTETS % GRAIN, "the other has begun it"
    arrives(ends, OTHER[loser])
