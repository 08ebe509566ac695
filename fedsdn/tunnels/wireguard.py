"""What WireGuard says of its peers, whoever drives it: the kernel or wireguard-go (wg(8)).

``wg show all dump`` says it at once, but with the private keys, which nobody here is to see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fedsdn.errors import FedsdnError
from fedsdn.shell import COMMAND_SECONDS, Shell, last_words


@dataclass(frozen=True, slots=True)
class PeerState:
    """A peer of one tunnel: bytes that were sent to it and came from it, encrypted.

    ``key`` is its public key as WireGuard writes it, ``handshake`` when the last one ended (Unix
    time), None if there was none since the peer was set.
    """

    interface: str
    key: str
    handshake: float | None
    sent: int
    received: int


def parse_peers(handshakes: Iterable[str], transfers: Iterable[str]) -> list[PeerState]:
    """Join ``wg show all latest-handshakes`` and ``wg show all transfer``.

    A peer that came or went between the two is left out.
    """
    times = {(name, key): int(when) for name, key, when in _rows(handshakes, 3)}
    return [
        PeerState(name, key, times[name, key] or None, int(sent), int(received))
        for name, key, received, sent in _rows(transfers, 4)
        if (name, key) in times
    ]


def _rows(lines: Iterable[str], columns: int) -> Iterator[list[str]]:
    for line in lines:
        row = line.split("\t")
        if len(row) == columns:
            yield row


def read_peers(namespace: Shell, timeout: float = COMMAND_SECONDS) -> list[PeerState]:
    """Ask all of the namespace's tunnels.

    Raises:
        FedsdnError: ``wg`` is missing or fails, or takes longer than ``timeout`` seconds.

    """
    handshakes = _show(namespace, "latest-handshakes", timeout)
    return parse_peers(handshakes, _show(namespace, "transfer", timeout))


def _show(namespace: Shell, what: str, timeout: float) -> list[str]:
    done = namespace.run("wg", "show", "all", what, timeout=timeout)
    if done.returncode:
        said = last_words(done.stderr, done.stdout)
        raise FedsdnError(
            f"wg does not answer in {namespace.name} ({said}): run as root, with Debian's package "
            "wireguard-tools installed"
        )
    return done.stdout.splitlines()
