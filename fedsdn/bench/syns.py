"""A flood of SYNs from one VM: ``python -m fedsdn.bench.syns SOURCE ADDRESS PORT COUNT SECONDS``.

Each comes from a port of its own. Prints one JSON object: how many went, and in how many seconds.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from contextlib import suppress

from fedsdn.bench.segments import SYN, segment

_PORTS = range(10_000, 60_000)
_BURST = 20


def flood(
    source: str,
    server: tuple[str, int],
    count: int,
    seconds: float,
    ports: range = _PORTS,
    lost: tuple[type[OSError], ...] = (),
) -> float:
    """Send so many in about so many seconds, from ``ports`` in turn; return how many it took.

    One whose sending fails by an error of ``lost`` counts as one that was lost on the way.

    Raises:
        OSError: one cannot be sent.

    """
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    chance = random.Random(count)  # noqa: S311 -- no secrets
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        sock.bind((source, 0))
        began = time.monotonic()
        for number in range(count):
            port = ports[number % len(ports)]
            numbers = (chance.getrandbits(32), 0)
            with suppress(*lost):
                sock.sendto(segment((source, port), server, SYN, numbers), (server[0], 0))
            ahead = began + seconds * number / count - time.monotonic()
            if number % _BURST == 0 and ahead > 0:
                time.sleep(ahead)
        return time.monotonic() - began


def main() -> None:
    """Do what the arguments say."""
    source, address, port, count, seconds = sys.argv[1:]
    took = flood(source, (address, int(port)), int(count), float(seconds))
    print(json.dumps({"count": int(count), "seconds": took}))


if __name__ == "__main__":
    main()
