"""Checks that what is not TCP goes on over the other uplinks when one is lost."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fedsdn.traffic.datagram_runner import DNS_PORT, Streams, serving, stream
from fedsdn.traffic.echoes import StreamView
from fedsdn.traffic.runner import PORT
from fedsdn.uplinks.status import PathState
from fedsdn.verify.checks import Check, CheckFailedError
from fedsdn.verify.datagrams import look_at, pings, refused
from fedsdn.verify.loss import UplinkLoss, wait_until_noticed

SECTION = "an uplink lost under datagrams"

_FLOWS = 8
"""So many that some are on the uplink that is lost."""
_SECONDS = 9.0
_LOST_AT, _BACK_AT = 2.0, 5.0
"""When the wire is pulled and plugged in again, in seconds since the start."""
_INTERVAL = 0.01
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
        "a ping and UDP flows of 100 packets a second lose no more than goes out until the path is "
        "found dead, none twice, and nothing when the uplink is back",
        partial(_lose, loss),
        (pings(path),),
    )


def _lose(loss: UplinkLoss) -> str:
    path = loss.path
    streams = Streams(path.destination, _FLOWS, _SECONDS)
    count = int(_SECONDS / _INTERVAL)
    ping = ("ping", "-n", "-q", "-i", str(_INTERVAL), "-c", str(count), str(path.destination))
    with ThreadPoolExecutor() as pool, serving(path.far_vm.shell, path.destination):
        pinging = pool.submit(path.near_vm.shell.run, *ping, timeout=_SECONDS + 20)
        flows = stream(path.near_vm.shell, streams, partial(_pull_and_plug_in, loss))
        said = pinging.result().stdout
    return judged(loss, flows, _counts(loss, said))


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


def judged(loss: UplinkLoss, flows: list[StreamView], ping: tuple[int, int]) -> str:
    """Say what was lost.

    Raises:
        CheckFailedError: more than may be, or some came twice.

    """
    most = int((loss.path.near.federation.probes.detection + _SPARE_SECONDS) / _INTERVAL)
    lost, again = ping
    hit = [flow for flow in flows if flow.lost]
    worst = max((flow.lost for flow in flows), default=0)
    found = (
        f"ping lost {lost}, {len(hit)} of {len(flows)} UDP flows up to {worst} "
        "of 100 packets a second"
    )
    if again or any(flow.again for flow in flows):
        twice = again + sum(flow.again for flow in flows)
        raise CheckFailedError(f"{twice} came twice ({found})", look_at(loss.path))
    if max(lost, worst) > most:
        raise CheckFailedError(
            f"{found}, more than {most}",
            f"{loss.path.near.shell.by_hand('fedsdn uplinks --watch')}; {look_at(loss.path)}",
        )
    silence = max((flow.silence for flow in flows), default=0.0)
    return f"{found}; {silence * 1000:.0f} ms of silence"
