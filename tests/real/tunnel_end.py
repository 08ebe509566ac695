"""One end of a tunnel that wireguard-go drives: ``python -m tests.real.tunnel_end NAMESPACE SITE``.

It keeps the interface ``t1-up1`` of a site of two as the application does, its path living all the
time. Two more arguments are its private key and the peer's public one. What it is told by a line of
its input it answers with a line: ``lose``, it ends the program and starts it again; ``heard``, the
seconds since 1970 when the last session began, and the bytes that have come. An end that does not
begin sessions never does, but where it has lost one.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from fedsdn.config.model import Federation
from fedsdn.controller.tunnels import Tunnels
from fedsdn.lab.wait import wait_until
from fedsdn.tunnels import sessions
from fedsdn.tunnels.configuration import Identities
from tests.unit.federations import two_sites

INTERFACE = "t1-up1"
NEVER = 1e6


class End:
    """The program, and what it is asked."""

    def __init__(self, site: str) -> None:
        self._prefixes = {"a": "10.2.0.0/24", "b": "10.1.0.0/24"}[site]
        self._knows_session = False
        self._start()

    def _start(self) -> None:
        self._program = subprocess.Popen(["wireguard-go", "--foreground", INTERFACE])
        wait_until(lambda: not self._fails("wg", "show", INTERFACE), 60, lambda: "no interface")
        for command in (
            f"ip link set {INTERFACE} up",
            f"ip route replace {self._prefixes} dev {INTERFACE}",
        ):
            subprocess.run(command.split(), check=True)

    @staticmethod
    def _fails(*command: str) -> bool:
        return subprocess.run(command, capture_output=True, check=False).returncode != 0

    def hear(self, heard: Mapping[sessions.End, sessions.Heard]) -> None:
        """Note what the application has seen."""
        self._knows_session = any(one.has_session for one in heard.values())

    def lose(self) -> str:
        wait_until(lambda: self._knows_session, 60, lambda: "no session")
        self.close()
        self._start()
        return "lost"

    def close(self) -> None:
        self._program.kill()
        self._program.wait()

    @staticmethod
    def heard() -> str:
        command = ["wg", "show", INTERFACE, "dump"]
        dump = subprocess.run(command, capture_output=True, text=True, check=True)
        _, *peers = (line.split("\t") for line in dump.stdout.splitlines())
        return " ".join(peers[0][4:6]) if peers else "0 0"

    def answer(self, line: str) -> str:
        return {"lose": self.lose, "heard": self.heard}[line.strip()]()


def federation(peer: str, key: bytes) -> Federation:
    """Two sites, of which the peer's tunnels have this key."""
    sites = (
        replace(
            site,
            identities=tuple(
                replace(one, tunnel_key=key) if site.name == peer else one
                for one in site.identities
            ),
        )
        for site in two_sites().sites
    )
    return replace(two_sites(), sites=tuple(sites))


async def keep(name: str, site: str, private: bytes, public: bytes, end: End) -> None:
    """Keep the interface, and answer, until the input ends."""
    peer = {"a": "b", "b": "a"}[site]
    known = federation(peer, public)
    with ThreadPoolExecutor(1) as executor:
        kept = Tunnels(name, site, lambda: known, executor, lambda: {(INTERFACE, peer)}, end.hear)
        kept.identify(Identities(private))
        task = asyncio.create_task(kept.run())
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(await asyncio.to_thread(end.answer, line), flush=True)
            assert not task.done()
        task.cancel()
        await asyncio.wait([task])


def main() -> None:
    name, site, private, public = sys.argv[1:]
    sessions.OTHER_SECONDS = NEVER
    end = End(site)
    try:
        asyncio.run(keep(name, site, bytes.fromhex(private), bytes.fromhex(public), end))
    finally:
        end.close()


if __name__ == "__main__":
    main()
