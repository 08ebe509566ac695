"""Checks that a connection lives through the loss of an uplink, and uses it again afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from fedsdn.config.model import Uplink
from fedsdn.shell import Started
from fedsdn.traffic.runner import PROGRAM, finish, serving, wait_open
from fedsdn.traffic.values import Amount, ClientView
from fedsdn.uplinks.status import PathState
from fedsdn.verify import proxy as proxy_checks
from fedsdn.verify.checks import Check, CheckFailedError
from fedsdn.verify.paths import VmPath
from fedsdn.verify.view import SiteView

Plug = Callable[[bool], None]
"""Plugs an uplink's wire in, or pulls it."""

PlugUplink = Callable[[str, str, bool], None]
"""The same, for an uplink of a site, by their names."""

SECTION = "an uplink lost in mid-transfer"
SECONDS = 16.0
"""Of one transfer, unless said otherwise."""

_LOST_AT, _BACK_AT = 1 / 4, 5 / 8
"""When the wire is pulled and plugged in again, as parts of the transfer."""
_SETTLE_SECONDS = 1.0
"""Not measured after a change."""
_NOTICE_SECONDS = 10.0
_POLL_SECONDS = 0.1
_LEAST_AGAIN = 1.2
"""With the uplink back there must be so many times what there was without it."""


@dataclass(frozen=True, slots=True)
class UplinkLoss:
    """The loss of the near site's ``uplink``, whose wire leads to ``other`` of the far site."""

    path: VmPath
    uplink: Uplink
    other: Uplink
    plug: Plug
    seconds: float = SECONDS


def losses(
    pairs: Sequence[tuple[Uplink, Uplink]], path: VmPath, plug: PlugUplink
) -> list[UplinkLoss]:
    """Lose each of the uplinks ``pairs`` between two sites, and at either end."""
    there = [
        UplinkLoss(path, own, other, partial(plug, path.near.name, own.name))
        for own, other in pairs
    ]
    back = [
        UplinkLoss(path.back(), other, own, partial(plug, path.far.name, other.name))
        for own, other in pairs
    ]
    return there + back


def loss_check(loss: UplinkLoss) -> Check:
    """Return the check that one connection lives through a loss."""
    path = loss.path
    return Check(
        SECTION,
        f"{path.near.name}/{loss.uplink.name}, {path.section}",
        "both ends drop the uplink, the data go on over the others, intact, and the uplink is used "
        "again when it is back",
        partial(_lose, loss),
        (path.connects,),
    )


def _lose(loss: UplinkLoss) -> str:
    transfer = loss.path.transfer(Amount(seconds=loss.seconds))
    shell = loss.path.near_vm.shell
    with (
        ThreadPoolExecutor() as pool,  # a check that fails ends the transfer, and waits for no rest
        serving(loss.path.far_vm.shell),
        shell.started(*shell.module(PROGRAM), *transfer.arguments) as client,
    ):
        wait_open(client)
        started = time.monotonic()
        moving = pool.submit(_data, client)
        times = _pull_and_plug_in(loss, started)
        connection = moving.result()
    return _judged(loss, connection, *times)


def _data(client: Started) -> ClientView:
    return finish(client)[0]


def _pull_and_plug_in(loss: UplinkLoss, started: float) -> tuple[float, float]:
    """Return when the wire was pulled and plugged in, in seconds since the start."""
    _sleep_until(started + _LOST_AT * loss.seconds)
    loss.plug(False)
    try:
        lost = time.monotonic() - started
        wait_until_noticed(loss, PathState.DOWN)
        _sleep_until(started + _BACK_AT * loss.seconds)
    finally:
        loss.plug(True)
    back = time.monotonic() - started
    wait_until_noticed(loss, PathState.UP)
    return lost, back


def _sleep_until(then: float) -> None:
    time.sleep(max(0.0, then - time.monotonic()))


def wait_until_noticed(loss: UplinkLoss, state: PathState) -> None:
    """Wait until both ends have the path in ``state``, and the endpoints that go with that.

    Raises:
        CheckFailedError: one of them does not notice.

    """
    near, far = loss.path.near, loss.path.far
    ends = ((near, loss.uplink, far, loss.other), (far, loss.other, near, loss.uplink))
    deadline = time.monotonic() + _NOTICE_SECONDS
    for view, own, peer, other in ends:
        while not _has(view, own, peer, other, state):
            if time.monotonic() > deadline:
                raise CheckFailedError(
                    f"{view.name} did not notice within {_NOTICE_SECONDS:g} s that {own.name} to "
                    f"{peer.name}/{other.name} is {state}",
                    view.shell.by_hand("fedsdn uplinks"),
                )
            time.sleep(_POLL_SECONDS)


def _has(view: SiteView, own: Uplink, peer: SiteView, other: Uplink, state: PathState) -> bool:
    status = proxy_checks.status(view)
    if status is None:
        return False
    path = (own.name, peer.name, other.name)
    states = {(p.uplink, p.peer, p.peer_uplink): p.state for p in status.paths}
    addresses = proxy_checks.endpoint_addresses(view)
    return states.get(path) == state and all(
        (str(uplink.address.ip) in addresses) == (uplink.name not in status.dead)
        for uplink in view.site.uplinks
    )


def _judged(loss: UplinkLoss, connection: ClientView, lost: float, back: float) -> str:
    received = connection.received
    if connection.error or received is None or not received.intact:
        raise CheckFailedError(
            connection.error or "what came is not what was sent",
            "look at both sites' logs, and at 'fedsdn uplinks --watch'; " + loss.path.ask_proxies,
        )
    without = received.rate(lost + _SETTLE_SECONDS / 2, back)
    again = received.rate(back + _SETTLE_SECONDS, loss.seconds)
    if again < _LEAST_AGAIN * without:
        raise CheckFailedError(
            f"{without / 1e6:.0f} Mbit/s without {loss.uplink.name}, only {again / 1e6:.0f} when "
            "it was back",
            "its path must be up, and have subflows: "
            + loss.path.near.shell.by_hand("fedsdn uplinks"),
        )
    silence = received.longest_silence(lost, back)
    return (
        f"{silence * 1000:.0f} ms of silence; {without / 1e6:.0f} Mbit/s "
        f"without {loss.uplink.name}, {again / 1e6:.0f} again 1 s after it was back"
    )
