"""Watching the VMs of a worker's connections: one that falls silent has the other one muted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import NoReturn

from fedsdn.mptcp.connection import tcp_info, unanswered
from fedsdn.proxy.relay.poller import running_task
from fedsdn.proxy.relay.silence import UNANSWERED, Silences, is_silent, probe_interval
from fedsdn.proxy.sockets import tcp, vm_liveness

SWEEP_SECONDS = 6.0
"""Every VM is looked at once in this time."""

_AT_ONCE = 256
"""After so many VMs the connections get their turn: 0.4 ms."""


class VmWatch:
    """The silence of a connection's two VMs, and the socket of the one that is here."""

    def __init__(self, vm: socket.socket) -> None:
        """Watch the VM behind a connected socket; ``look`` is to be called now and then."""
        self._vm = vm
        self._silences = Silences()
        self._muted = False
        self._since = 0.0
        """When the VM here was first found silent, on the monotonic clock."""
        self.tell: Callable[[bool], None] = lambda silent: None
        """Tells the peer that the VM here is silent, at each look, or once that it is no more.

        Data that the VM has sent before may go out after that, and count as a sign of life.
        """

    @property
    def other_is_silent(self) -> bool:
        """Whether the peer's VM is."""
        return self._silences.other

    def peer_says(self, *, silent: bool) -> None:
        """Note whether the peer's VM is silent."""
        self._silences.other = silent
        self._settle()

    def look(self) -> None:
        """See whether the VM here is silent."""
        if self._silences.other:
            self._settle()
        if self._muted:
            return
        count = unanswered(self._vm)
        if count >= UNANSWERED or self._silences.own:
            self._note(is_silent(count, tcp_info(self._vm).last_ack_recv / 1000))

    def _note(self, silent: bool) -> None:
        changes = silent is not self._silences.own
        if changes:
            self._since = monotonic()
        if changes or silent:
            with suppress(OSError):  # it has been reset
                vm_liveness.probe_every(self._vm, probe_interval(monotonic() - self._since))
            self._silences.own = silent
            self.tell(silent)
            self._settle()

    def _settle(self) -> None:
        """Mute the VM here, or let it be answered again.

        What is under way to it must be acknowledged first: muted, it could not do that.
        """
        mute = self._silences.mute
        if mute is self._muted or (mute and tcp.unacknowledged(self._vm)):
            return
        with suppress(OSError):  # it has been reset
            (vm_liveness.mute if mute else vm_liveness.unmute)(self._vm)
            self._muted = mute


ResetAfterFault = Callable[[asyncio.Task[object], Exception], object]


class Sweep:
    """Looks at the VMs of all connections of a worker, in portions."""

    def __init__(self, reset_after_fault: ResetAfterFault) -> None:
        """Start with none; they are looked at while ``run`` runs.

        ``reset_after_fault`` is told of a fault, and of the task whose connection has it.
        """
        self._reset = reset_after_fault
        self._watched: dict[VmWatch, asyncio.Task[object]] = {}

    @contextmanager
    def watching(self, vm: socket.socket) -> Iterator[VmWatch]:
        """Look at a VM during the block. If that raises, the running task is cancelled."""
        watch = VmWatch(vm)
        self._watched[watch] = running_task()
        try:
            yield watch
        finally:
            del self._watched[watch]

    async def run(self) -> NoReturn:
        """Look at each VM every ``SWEEP_SECONDS``, until cancelled."""
        while True:
            watched = list(self._watched)
            portions = range(0, max(len(watched), 1), _AT_ONCE)
            for start in portions:
                self._look_at(watched[start : start + _AT_ONCE])
                await asyncio.sleep(SWEEP_SECONDS / len(portions))

    def _look_at(self, portion: list[VmWatch]) -> None:
        for watch in portion:
            if task := self._watched.get(watch):
                try:
                    watch.look()
                except Exception as error:  # a fault of this connection is none of the others'
                    self._reset(task, error)
