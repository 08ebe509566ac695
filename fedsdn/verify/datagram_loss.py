"""Checks that what is not TCP goes on over the other uplinks when one is lost."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fedsdn.traffic.datagram_runner import DNS_PORT, Streams, dropped, serving, stream
from fedsdn.traffic.echoes import StreamView
from fedsdn.traffic.runner import PORT
from fedsdn.uplinks.status import PathState
from fedsdn.verify.checks import Check, CheckFailedError
from fedsdn.verify.datagrams import look_at, pings, refused
from fedsdn.verify.loss import UplinkLoss, wait_until_noticed
from fedsdn.verify.paths import VmPath

SECTION = "an uplink lost under datagrams"

_FLOWS = 8
"""So many that some are on the uplink that is lost."""
_BYTES = 200
"""Of each datagram, as of telephony: all flows are 1 Mbit/s with a tunnel's headers, and one slow
wire carries them when the others are lost."""
_WAIT_SECONDS = 2.0
"""For the last answers, if some are missing."""
_SECONDS = 9.0
_LOST_AT, _BACK_AT = 2.0, 5.0
"""When the wire is pulled and plugged in again, in seconds since the start."""
_PING_SECONDS, _FLOW_SECONDS = 0.01, 0.02
"""Between two packets of the ping, and of a flow: a call's pace."""
_SPARE_SECONDS = 1.0
"""What a machine under load may need beyond the time in which a silent path is found dead."""


def datagram_loss_check(loss: UplinkLoss) -> Check | None:
    """Return the check that flows live through a loss; None where the file forbids them."""
    path = loss.path
    if refused(path, "icmp", 0) or refused(path, "udp", PORT, DNS_PORT):
        return None
    return Check(
        SECTION,
        f"{path.near.name}/{loss.uplink.name}, {path.section}",
        "a ping of 100 packets a second and UDP flows of 50 lose no more, until the uplink is back "
        "and behind that, than goes out until a path is found dead, and none comes twice",
        partial(_lose, loss),
        (pings(path),),
    )


def _lose(loss: UplinkLoss) -> str:
    path = loss.path
    streams = Streams(
        path.destination, _FLOWS, _SECONDS, _WAIT_SECONDS, size=_BYTES, interval=_FLOW_SECONDS
    )
    count = int(_SECONDS / _PING_SECONDS)
    ping = ("ping", "-n", "-q", "-i", str(_PING_SECONDS), "-c", str(count), str(path.destination))
    before = _dropped(path)
    with ThreadPoolExecutor() as pool, serving(path.far_vm.shell, path.destination):
        pinging = pool.submit(path.near_vm.shell.run, *ping, timeout=_SECONDS + 20)
        flows = stream(path.near_vm.shell, streams, partial(_pull_and_plug_in, loss))
        said = pinging.result().stdout
    in_vms = sum(
        after - then
        for then, after in zip(before, _dropped(path), strict=True)
        if then is not None and after is not None
    )
    return judged(loss, flows, _counts(loss, said), in_vms)


def _dropped(path: VmPath) -> tuple[int | None, ...]:
    """Return how many datagrams each VM's own sockets have had no room for, if it can say so."""
    return tuple(dropped(vm.shell) for vm in (path.near_vm, path.far_vm))


def _pull_and_plug_in(loss: UplinkLoss) -> None:
    started = time.monotonic()
    time.sleep(_LOST_AT)
    loss.plug(False)
    try:
        wait_until_noticed(loss, PathState.DOWN)
        time.sleep(max(0.0, started + _BACK_AT - time.monotonic()))
    finally:
        loss.plug(True)
    wait_until_noticed(loss, PathState.UP)


def _counts(loss: UplinkLoss, said: str) -> tuple[int, int]:
    """Return how many echo requests had no answer, and how many more than one."""
    sent, came = (re.search(rf"(\d+) {what}", said) for what in ("packets transmitted", "received"))
    again = re.search(r"\+(\d+) duplicates", said)
    if sent is None or came is None:
        raise CheckFailedError("ping says nothing of what it sent", look_at(loss.path))
    return int(sent[1]) - int(came[1]), int(again[1]) if again else 0


def judged(
    loss: UplinkLoss, flows: list[StreamView], ping: tuple[int, int], in_vms: int = 0
) -> str:
    """Say what was lost; ``in_vms`` of it in the VMs themselves.

    Raises:
        CheckFailedError: more than may be, or some came twice.

    """
    seconds = loss.path.near.federation.probes.detection + _SPARE_SECONDS
    lost, again = ping
    hit = [flow for flow in flows if flow.lost]
    worst = max((flow.lossy for flow in flows), default=0.0)
    found = (
        f"ping lost {lost} of 100 a second, "
        f"{len(hit)} of {len(flows)} UDP flows what was sent in up to {worst:.2f} s"
    )
    if again or any(flow.again for flow in flows):
        twice = again + sum(flow.again for flow in flows)
        raise CheckFailedError(f"{twice} came twice ({found})", look_at(loss.path))
    if max(lost * _PING_SECONDS, worst) > seconds:
        raise CheckFailedError(
            f"{found}, more than {seconds:g} s{_where(in_vms)}",
            f"{loss.path.near.shell.by_hand('fedsdn uplinks --watch')}; {look_at(loss.path)}",
        )
    silence = max((flow.silence for flow in flows), default=0.0)
    return f"{found}; {silence * 1000:.0f} ms of silence"


def _where(in_vms: int) -> str:
    if not in_vms:
        return ""
    return (
        f"; {in_vms} were lost in the VMs, whose programs were too slow to take them: "
        "look for a saturated CPU (top)"
    )
