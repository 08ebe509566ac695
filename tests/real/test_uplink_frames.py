"""What goes out of an uplink's port fits the wire."""

from __future__ import annotations

import subprocess

import pytest

from fedsdn.lab.lab import Lab
from fedsdn.lab.wait import wait_until
from fedsdn.shell import Shell
from fedsdn.traffic.runner import Transfer, send, serving
from fedsdn.traffic.values import Amount

pytestmark = pytest.mark.real

ETHERNET_HEADER = 14
MTU = 1500
AMOUNT = Amount(size=20_000_000)
FRAMES = 40
LIMIT_S = 60.0


@pytest.mark.parametrize("uplink", ["up1", "up2"])
def test_no_frame_is_longer_than_the_mtu(lab: Lab, uplink: str) -> None:
    """Open vSwitch 3.1 would cut super-frames into segments that no real wire carries."""
    destination = lab.topology.sites[1].vms[0].addresses[0].ip
    longest = ETHERNET_HEADER + MTU
    capture = subprocess.Popen(
        [*lab.prefix("a"), "tcpdump", "-n", "--immediate-mode", "-i", uplink,
         "-Q", "out", "-c", str(FRAMES), f"greater {longest - 100}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = capture.stderr
    assert said is not None
    wait_until(lambda: "listening" in said.readline(), LIMIT_S, lambda: "no capture")
    with serving(Shell("b/vm1", lab.prefix("b/vm1"))):
        sent = send(Shell("a/vm1", lab.prefix("a/vm1")), Transfer(destination, AMOUNT))[0]
    frames, _ = capture.communicate(timeout=LIMIT_S)
    assert not sent.error
    payloads = [
        int(line.rpartition("length ")[2]) for line in frames.splitlines() if "length" in line
    ]
    assert len(payloads) == FRAMES
    assert max(payloads) < MTU
