"""Hands every SYN in as soon as it is held: a socksifier that knows all destinations to listen.

``python -m tests.real.handing_in``, in the proxy's namespace; says when it is ready.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.proxy.opening.device import HeldDevice, HeldQueue, attach, load_order
from fedsdn.proxy.opening.segments import read_segment
from fedsdn.site import tun
from tests.real.proxy_net import ROOT
from tests.real.site_host import SiteHost


@contextmanager
def handing_in(host: SiteHost) -> Iterator[None]:
    """Have it run on a host during the block."""
    python = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", __name__)
    command = ("ip", "netns", "exec", PROXY_NAMESPACE, *python)
    with host.program(*command) as running:
        assert running.stdout is not None
        assert running.stdout.readline().strip() == "ready"
        yield
        running.kill()


def main() -> None:
    descriptor = tun.open_queue()
    attach(descriptor)
    device, queue = HeldDevice(0), HeldQueue(descriptor, load_order())
    print("ready", flush=True)

    def take(packet: bytes) -> None:
        segment = read_segment(packet)
        if segment is not None and (segment.opens or segment.resets):
            device.hand_in(segment)

    asyncio.run(queue.run(take))


if __name__ == "__main__":
    main()
