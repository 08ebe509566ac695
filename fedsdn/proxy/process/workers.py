"""The proxy: what it needs to start, or to go on after a reload, and running it."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from fedsdn import users
from fedsdn.config.model import Federation
from fedsdn.config.watch import WatchedFederation
from fedsdn.errors import FedsdnError, FinalError
from fedsdn.identity.store import load
from fedsdn.pipeline.declarations import SOCKSIFIER_LISTEN_PORTS
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.memory import Memory
from fedsdn.proxy.opening.device import check_device, load_order
from fedsdn.proxy.process.as_worker import check_as_worker
from fedsdn.proxy.process.handed_on import (
    HandedOn,
    HandedRows,
    federation_name,
    handed_on,
    layout,
    take_over,
)
from fedsdn.proxy.process.parent import Parent
from fedsdn.proxy.process.place import Shared
from fedsdn.proxy.process.settings import Kept, Settings
from fedsdn.proxy.process.stats_socket import StatisticsSocket
from fedsdn.proxy.sockets import transport
from fedsdn.proxy.socks import socksifier
from fedsdn.proxy.stats import Rows, Statistics
from fedsdn.proxy.tls.contexts import check_own
from fedsdn.site import checks


def run(settings: Settings, statistics_socket: Path) -> None:
    """Run the proxy in this network namespace until SIGTERM or SIGINT.

    On SIGHUP the process becomes the program that is on disk then, and comes here once more: new
    workers take the places of those that run, which end with what they carry.

    Raises:
        FedsdnError: it cannot start, and nothing runs then; or its namespace's name belongs to
            another one now.

    """
    before = handed_on()
    if before is not None:
        take_over(before)
    federation = _watched(settings)
    _check_keys(federation.current, settings)
    memory, earlier = _memory(before)
    rows = [Rows(one.names, Memory([one.descriptor])) for one in earlier]
    statistics = Statistics(settings.workers, memory, rows)
    shared = Shared.within(memory)
    listening = None if before is None else (before.lock, *before.sockets)
    served = StatisticsSocket(statistics_socket, statistics, listening)
    try:
        if before is None:
            _check_ports(federation.current, settings.workers)
            check_device()
            _raise_descriptor_limit()
        # A reload's program, which has no such right any more, goes on with the one of before.
        order = load_order() if before is None else before.order
        _give_up_rights()
        kept = Kept(tuple(memory.descriptors), earlier, order)
        parent = Parent(settings, federation, statistics, served, shared, kept)
        parent.run(before)
    finally:
        served.remove()


def check(settings: Settings) -> None:
    """Find out whether the proxy would run, or go on, without disturbing one that does.

    Raises:
        FedsdnError: it would not.

    """
    before = handed_on()
    federation = _watched(settings).current
    _check_keys(federation, settings)
    if before is None or before.federation != federation_name(federation):
        checks.check_bridge(federation.local_site(settings.site))


def _watched(settings: Settings) -> WatchedFederation:
    _check_readable(settings.federation)

    def check_bridge(federation: Federation) -> None:
        checks.check_bridge(federation.local_site(settings.site))

    return WatchedFederation(settings.federation, settings.site, check_bridge)


def _check_keys(federation: Federation, settings: Settings) -> None:
    """Check that the workers will be able to read the federation file, and the keys that they need.

    Raises:
        FedsdnError: they will not.

    """
    policy = Policy.at(federation, settings.site)

    def check() -> None:
        settings.federation.open("rb").close()
        check_own(policy, partial(load, settings.identity))

    check_as_worker(check)


def _check_readable(file: Path) -> None:
    """Refuse a federation file that this process could read now, and its workers not later."""
    with suppress(OSError):  # who reads it says so
        mode = stat.S_IMODE(file.stat().st_mode)
        if not mode & stat.S_IROTH:
            raise FinalError(
                f"{file}: has mode {mode:04o}, so that the proxy's workers (user "
                f"{users.PROXY_USER}) cannot read it: run 'chmod 644 {file}', it holds no secret"
            )


def _memory(before: HandedOn | None) -> tuple[Memory, tuple[HandedRows, ...]]:
    """Return what workers share, and the rows of earlier programs that count too.

    Workers of a program with another layout go on with theirs; only what they count is read.
    """
    if before is None:
        return Memory(), ()
    if before.layout == layout():
        return Memory(before.memory), before.earlier
    for descriptor in before.memory:
        if descriptor != before.counted.descriptor:
            os.close(descriptor)
    return Memory(), (*before.earlier, before.counted)


def _check_ports(federation: Federation, workers: int) -> None:
    """Find out before the workers start whether the ports can be listened on."""
    attempts: list[tuple[int, Callable[[], socket.socket]]] = [
        (federation.proxy_port, lambda: transport.listen(federation.proxy_port)),
        *(
            (port, partial(socksifier.listen_for_vms, number))
            for number, port in enumerate(SOCKSIFIER_LISTEN_PORTS[:workers])
        ),
    ]
    for port, listen in attempts:
        try:
            listen().close()
        except OSError as error:
            raise FedsdnError(
                f"the proxy cannot listen on TCP port {port} ({error.strerror}): look who does "
                "('ss -ltnp' in its namespace), whether this process is root, and whether the "
                "kernel has MPTCP ('sysctl net.mptcp.enabled')"
            ) from error


def _give_up_rights() -> None:
    try:
        users.keep_only(users.FIRST_PROCESS)
    except OSError as error:
        raise FedsdnError(
            f"the proxy cannot give up rights that it needs no more ({error.strerror})"
        ) from error


def _raise_descriptor_limit() -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
