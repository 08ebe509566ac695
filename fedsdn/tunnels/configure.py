"""Tells the namespace's WireGuard interfaces their keys and peers, and asks them, through wg(8)."""

from __future__ import annotations

import subprocess

from fedsdn import namespace
from fedsdn.config.model import Federation
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import is_tunnel_name
from fedsdn.tunnels.configuration import Configuration, Identities, Seen, parse
from fedsdn.tunnels.plan import TunnelKind, tunnels


def configure(
    name: str, federation: Federation, site: str, identities: Identities
) -> tuple[str, ...]:
    """Have the interfaces in the namespace called ``name`` as the federation has their tunnels.

    One that the federation does not have any more is left without peers. Returns those that had to
    change; sessions with peers that stay go on.

    Raises:
        MissingNamespaceError: there is no such namespace.
        FedsdnError: ``wg`` is not installed, or an interface refuses.

    """
    if identities.own is None:
        return ()
    planned = {
        tunnel.name: tunnel
        for tunnel in tunnels(federation, federation.site(site), identities.peers)
        if tunnel.kind is TunnelKind.WIREGUARD
    }
    own = identities.own

    def work() -> tuple[str, ...]:
        present = filter(is_tunnel_name, _wg("show", "interfaces").split())
        return tuple(
            interface
            for interface in present
            if _sync(interface, Configuration(own, planned.get(interface)))
        )

    try:
        return namespace.inside(name, work)
    except OSError as error:
        raise FedsdnError(f"tunnels in namespace {name} cannot be set: {error}") from error


def received(name: str) -> dict[tuple[str, str], int]:
    """Return how many bytes have come, by interface and public key, in a namespace's tunnels.

    Raises:
        MissingNamespaceError: there is no such namespace.
        FedsdnError: ``wg`` is not installed, or fails.

    """
    try:
        said = namespace.inside(name, _transfer)
    except OSError as error:
        raise FedsdnError(f"tunnels in namespace {name} cannot be asked: {error}") from error
    rows = (row.split() for row in said.splitlines())
    return {(interface, key): int(octets) for interface, key, octets, _ in rows}


def _transfer() -> str:
    return _wg("show", "all", "transfer")


def _sync(interface: str, wanted: Configuration) -> bool:
    seen = _show(interface)
    if seen is None:
        return False
    wanted = wanted.following(seen)
    if wanted.is_that(seen):
        return False
    # Keys go by a pipe: everybody may read a process's arguments.
    _wg("syncconf", interface, "/dev/stdin", text=wanted.text())
    return True


def _show(interface: str) -> Seen | None:
    """Return what an interface has; None if it has gone, or its process has."""
    try:
        return parse(_wg("show", interface, "dump"))
    except (_RefusedError, ValueError):
        return None


class _RefusedError(FedsdnError):
    """The command failed."""


def _wg(*words: str, text: str = "") -> str:
    try:
        done = subprocess.run(
            ["wg", *words], input=text, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise FedsdnError("wg is not installed: install package wireguard-tools") from error
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise _RefusedError(f"'wg {' '.join(words)}' fails: {said}")
    return done.stdout
