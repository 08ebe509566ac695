"""Where a worker gets held SYNs from, and how it answers them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import NoReturn

from fedsdn.config.model import Address
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import HELD_DEVICE, PROXY_NAMESPACE, SocketMark, handed_in_mark
from fedsdn.proxy.opening.segments import Segment, Unreachable, reset_of, unreachable
from fedsdn.proxy.sockets.readable import when_readable
from fedsdn.site import steering, tun

_LOG = logging.getLogger(__name__)

_AT_ONCE = 64
"""How many packets are read before connections get their turn."""

_PAUSE_SECONDS = 0.005
"""How long none is read when VMs send more than they may: the queue has room for 500."""

_LOOK_SECONDS = 0.05
"""How often a device is looked for that is gone."""

_LONGEST = 1 << 16


NO_ORDER = -1
"""Stands for the program that keeps the order of SYNs where there is none."""


def attach(queue: int) -> None:
    """Make a descriptor of ``tun.open_queue`` a queue of the device ``held``.

    The kernel begins to deal packets out to it.

    Raises:
        OSError: there is no such device, or the process lacks CAP_NET_ADMIN.

    """
    tun.attach(queue, HELD_DEVICE)


def load_order() -> int:
    """Have the kernel load the program that keeps the order of a VM's SYNs; only root can.

    Returns a descriptor for ``HeldQueue``, ``NO_ORDER`` if the kernel refuses, which is logged.
    """
    try:
        return steering.load()
    except OSError as error:
        _LOG.warning(
            "connections that a VM opens at the same time may arrive in another order: the kernel "
            "does not let a program choose the worker (%s); run one worker to keep the order",
            error.strerror,
        )
        return NO_ORDER


class TooManyError(Exception):
    """VMs send more SYNs than they may."""


class HeldQueue:
    """One of the queues of the device ``held``."""

    def __init__(self, descriptor: int, order: int) -> None:
        """Own a queue of the device, which keeps the order by the program that ``load_order`` gave.

        Raises:
            OSError: the kernel does not take the program.

        """
        self._descriptor = descriptor
        self._order = order
        self._keep_order()

    def _keep_order(self) -> None:
        if self._order != NO_ORDER:
            steering.steer(self._descriptor, self._order)

    async def run(self, take: Callable[[bytes], None]) -> NoReturn:
        """Give packets to ``take`` until cancelled.

        It raises ``TooManyError`` when there is a pause to be made: with each packet of a flood
        alone, the event loop would have much to do.

        A device that somebody deletes is waited for.
        """
        log = DampedLog(_LOG)
        while True:
            try:
                read = partial(_read, self._descriptor, take, log)
                await when_readable(self._descriptor, read)
            except TooManyError:
                await asyncio.sleep(_PAUSE_SECONDS)
            except OSError as error:
                text = f"device {HELD_DEVICE} is gone ({error.strerror}): waiting for it"
                log.say(logging.WARNING, "gone", f"{text}; 'fedsdn site up' makes it")
                await self._attach_again()

    async def _attach_again(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            with suppress(OSError):
                attach(self._descriptor)
                self._keep_order()
                return

    def detach(self) -> int:
        """Return the descriptor, which is the caller's from now on."""
        return self._descriptor

    def close(self) -> None:
        """Get no more packets: other workers do, or there are none."""
        os.close(self._descriptor)


class HeldDevice:
    """Raw sockets, by which held SYNs are answered."""

    def __init__(self, worker: int) -> None:
        """Open the sockets.

        Raises:
            OSError: the process lacks CAP_NET_ADMIN or CAP_NET_RAW.

        """
        self._opened = ExitStack()
        try:
            self._own = self._raw(handed_in_mark(worker))
            self._vms = self._raw(SocketMark.SOCKSIFIER)
        except OSError:
            self._opened.close()
            raise

    def _raw(self, mark: int) -> dict[int, socket.socket]:
        """Make a socket for packets of each IP version, headers and all (raw(7))."""
        sockets = {}
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
            sockets[version] = self._opened.enter_context(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        return sockets

    def hand_in(self, segment: Segment) -> None:
        """Send a VM's segment to the listener of this worker."""
        self._send(self._own, segment.packet, segment.destination.address)

    def refuse(self, segment: Segment) -> None:
        """Answer a SYN as a closed port does."""
        self._send(self._vms, reset_of(segment), segment.client.address)

    def tell_unreachable(self, segment: Segment, why: Unreachable, own: Address) -> None:
        """Answer a SYN as a router does, from ``own``."""
        self._send(self._vms, unreachable(segment, why, own), segment.client.address)

    @staticmethod
    def _send(sockets: dict[int, socket.socket], packet: bytes, to: Address) -> None:
        with suppress(OSError):  # no room now; the VM asks again
            sockets[to.version].sendto(packet, (str(to), 0))

    def close(self) -> None:
        """Close the sockets."""
        self._opened.close()


def _read(queue: int, take: Callable[[bytes], None], log: DampedLog) -> None:
    """Read some packets; a fault with one of them goes into ``log``.

    Raises:
        TooManyError: some of them were too many.
        OSError: there is no such device any more.

    """
    too_many: TooManyError | None = None
    with suppress(BlockingIOError):
        for _ in range(_AT_ONCE):
            packet = os.read(queue, _LONGEST)
            try:
                take(packet)
            except TooManyError as error:
                too_many = error
            except Exception as error:
                log.fault("a held packet is dropped: handling it failed", error)
    if too_many is not None:
        raise too_many


def check_device() -> None:
    """Check that there is a device to read from.

    Raises:
        FedsdnError: there is none, or this process may not.

    """
    try:
        HeldDevice(0).close()
        queue = tun.open_queue()
        try:
            attach(queue)
        finally:
            os.close(queue)
    except OSError as error:
        raise FedsdnError(
            f"the proxy cannot read from device {HELD_DEVICE} of namespace {PROXY_NAMESPACE} "
            f"({error.strerror}): run 'fedsdn site up', and this command as root"
        ) from error
