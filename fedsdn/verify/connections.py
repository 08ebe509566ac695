"""Checks with real connections between two sites' VMs, one list per direction and family."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial

from fedsdn.config.decision import Decision
from fedsdn.proxy.ended.record import Reason
from fedsdn.traffic.runner import (
    PROGRAM,
    Transfer,
    finish,
    send,
    serving,
    wait_open,
)
from fedsdn.traffic.values import Amount, ClientView
from fedsdn.verify.checks import Check, CheckFailedError
from fedsdn.verify.paths import CLOSED_PORT, CONNECTS, PROHIBITED, TESTED_PORTS, VmPath
from fedsdn.verify.proxy import proxy_statistics

_FILE = Amount(size=256 * 1024)
_MESSAGE = Amount(size=1024)
_AT_ONCE = 50


COUNTED_SECONDS = 10.0
"""Workers count what they refuse a second later, all of it together; busy ones later than that."""


def path_checks(path: VmPath, connections: int) -> list[Check]:
    """Return all checks of one path; ``connections`` are opened in parallel.

    Where the federation file forbids these connections, it is checked that they are refused.
    """
    if forbidden := path.forbidden():
        return [_forbidden_check(path, *forbidden)]

    def check(name: str, proves: str, test: Callable[[], str]) -> Check:
        return Check(path.section, name, proves, test, (path.connects,))

    load = cache(partial(_load, path, connections))
    return [
        Check(
            path.section,
            CONNECTS,
            f"a VM of {path.near.name} reaches a test program at {path.far.name}",
            partial(_connects, path),
            path.prerequisites(),
        ),
        check("refusal", "a closed port refuses the connection", partial(_refusal, path)),
        check("data intact", "both directions of data arrive unchanged", partial(_intact, path)),
        check(
            "source address and port",
            f"the far end sees {_seen(path)}, {connections} times of {connections}",
            lambda: check_sources(path, load().connections),
        ),
        check(
            "flow count",
            f"{connections} open connections add no OpenFlow flow at either site",
            lambda: check_flows(path, load()),
        ),
    ]


def _forbidden_check(path: VmPath, port: int, decision: Decision) -> Check:
    return Check(
        path.section,
        "prohibited",
        f"site {path.near.name} refuses at once what the federation file forbids",
        partial(_prohibited, path, port, decision),
        path.prerequisites(),
    )


def _prohibited(path: VmPath, port: int, decision: Decision) -> str:
    before = _refused_by_file(path)
    transfer = Transfer(path.destination, _MESSAGE, port=port)
    error = send(path.near_vm.shell, transfer)[0].error or "a connection"
    if error != os.strerror(PROHIBITED[path.family]):
        raise CheckFailedError(
            f"{path.destination} port {port} gave: {error}, but {decision.why}",
            path.near.start_proxy,
        )
    deadline = time.monotonic() + COUNTED_SECONDS
    while _refused_by_file(path) == before:
        if time.monotonic() < deadline:
            continue
        # A host that cannot be reached gives the same error.
        raise CheckFailedError(
            f"{path.destination} port {port} gave: {error}, but the proxy of site "
            f"{path.near.name} has not refused it, though {decision.why}",
            path.ask_proxies,
        )
    return (
        f"{error}: {decision.why}; for the other checks, allow TCP ports "
        f"{TESTED_PORTS[0]}-{TESTED_PORTS[-1]}"
    )


def _refused_by_file(path: VmPath) -> int:
    """How often the near site's proxy has refused what the federation file forbids."""
    counted = proxy_statistics(path.near)
    return sum(counted[f"ended_{reason.key}"] for reason in (Reason.NO_RULE, Reason.NO_VM))


def _seen(path: VmPath) -> str:
    if path.shown_source is None:
        return "the near VM's own"
    return f"the proxy's, {path.shown_source} (sources are not restored)"


def both_sides_check(path: VmPath, back: VmPath) -> Check:
    """Both sites open connections at the same time."""
    return Check(
        f"both sides at once, IPv{path.family}",
        f"{path.near.name} ⇄ {path.far.name}",
        "VMs of both sites open connections to each other at the same time",
        partial(_both_sides, path, back),
        (path.connects, back.connects),
    )


def _connects(path: VmPath) -> str:
    with serving(path.far_vm.shell):
        connection = send(path.near_vm.shell, path.transfer(_MESSAGE))[0]
    _no_errors(path, [connection])
    return f"{path.destination} in {1000 * connection.connect_seconds:.0f} ms"


def _no_errors(path: VmPath, connections: Sequence[ClientView]) -> None:
    errors = Counter(c.error for c in connections if c.error)
    if errors:
        said, times = errors.most_common(1)[0]
        raise CheckFailedError(
            f"{errors.total()} of {len(connections)} connections from {path.source} to "
            f"{path.destination} failed; {times} times: {said}",
            path.ask_proxies,
        )


def _refusal(path: VmPath) -> str:
    transfer = Transfer(path.destination, _MESSAGE, port=CLOSED_PORT)
    connection = send(path.near_vm.shell, transfer)[0]
    error = connection.error or "a connection"
    if error != os.strerror(errno.ECONNREFUSED):
        raise CheckFailedError(
            f"{path.destination} port {CLOSED_PORT} is closed, and gave: {error}", path.ask_proxies
        )
    return error


def _intact(path: VmPath) -> str:
    bytes_moved = 0
    with serving(path.far_vm.shell):
        for direction in ("upload", "download"):
            transfer = Transfer(path.destination, _FILE, direction, connections=_AT_ONCE)
            moved = send(path.near_vm.shell, transfer)
            _no_errors(path, moved)
            bytes_moved += _all_intact(direction, moved)
    return f"{bytes_moved / 1e6:.0f} MB, SHA-256 equal"


def _all_intact(direction: str, connections: Iterable[ClientView]) -> int:
    """Bytes that came, all unchanged."""
    total = 0
    for connection in connections:
        received = connection.received
        if received is None or not received.intact or received.size != _FILE.size:
            came = "nothing" if received is None else f"{received.size} bytes"
            raise CheckFailedError(
                f"{direction} of {_FILE.size} bytes from {connection.local}: {came} arrived, "
                "and not what was sent",
                "restart the proxies, and report this: it must not happen",
            )
        total += received.size
    return total


@dataclass(frozen=True, slots=True)
class Load:
    """Parallel connections, and the flows of both bridges before, during and after."""

    connections: tuple[ClientView, ...]
    before: dict[str, frozenset[str]]
    during: dict[str, frozenset[str]]
    after: dict[str, frozenset[str]]


def _load(path: VmPath, connections: int) -> Load:
    during: dict[str, frozenset[str]] = {}
    before = _flows(path)
    with serving(path.far_vm.shell):
        moved = send(
            path.near_vm.shell,
            path.transfer(_MESSAGE, connections),
            while_open=lambda: during.update(_flows(path)),
        )
    return Load(moved, before, during, _flows(path))


def _flows(path: VmPath) -> dict[str, frozenset[str]]:
    """All flows of both bridges, without their counters, whoever owns them.

    But for those with a hard timeout, which serve connections that are being opened
    (``source_restore: nat``).
    """
    command = ("ovs-ofctl", "-O", "OpenFlow13", "--no-stats", "dump-flows")
    return {
        view.name: frozenset(
            line
            for line in view.shell.output(*command, view.bridge).splitlines()
            if "actions=" in line and "hard_timeout=" not in line
        )
        for view in (path.near, path.far)
    }


def check_sources(path: VmPath, connections: Sequence[ClientView]) -> str:
    """Compare every connection's own address and port with what the far end saw.

    Where sources are not restored, it must have seen the proxy's address.

    Raises:
        CheckFailedError: one is missing or differs.

    """
    _no_errors(path, connections)
    shown = path.shown_source
    if shown is not None:
        return _check_unrestored(path, str(shown), connections)
    wrong = [c for c in connections if c.local != c.seen]
    if wrong:
        raise CheckFailedError(
            f"{len(wrong)} of {len(connections)} wrong: {_endpoint(wrong[0].local)} was seen as "
            f"{_endpoint(wrong[0].seen)}",
            f"see that no NAT is between proxy and VM at {path.far.name}; {path.far.set_up}",
        )
    return f"{len(connections)} of {len(connections)} right"


def _check_unrestored(path: VmPath, shown: str, connections: Sequence[ClientView]) -> str:
    wrong = [c for c in connections if c.seen is None or c.seen[0] != shown]
    if wrong:
        raise CheckFailedError(
            f"{len(wrong)} of {len(connections)} wrong: {_endpoint(wrong[0].local)} was seen as "
            f"{_endpoint(wrong[0].seen)}, not as {shown}",
            f"see that the proxy of {path.far.name} runs with this federation file; "
            + path.far.start_proxy,
        )
    return f"all {len(connections)} seen as {shown}, as the federation file says"


def _endpoint(endpoint: tuple[str, int] | None) -> str:
    return "nobody" if endpoint is None else f"{endpoint[0]} port {endpoint[1]}"


def check_flows(path: VmPath, load: Load) -> str:
    """Compare the flows during and after the load with those before.

    Raises:
        CheckFailedError: a flow came or went.

    """
    for when, flows in (("during", load.during), ("after", load.after)):
        for view in (path.near, path.far):
            before = load.before[view.name]
            changed = sorted(before ^ flows[view.name])
            if changed:
                raise CheckFailedError(
                    f"{len(before)} flows at {view.name} before, {len(flows[view.name])} {when}; "
                    f"first that differs: {changed[0].strip()}",
                    "see by its cookie who makes this flow: "
                    + view.shell.by_hand(f"ovs-ofctl -O OpenFlow13 dump-flows {view.bridge}"),
                )
    return ", ".join(f"{len(flows)} flows at {site}" for site, flows in load.before.items())


def _both_sides(path: VmPath, back: VmPath) -> str:
    with ExitStack() as stack:
        clients = []
        for way in (path, back):
            stack.enter_context(serving(way.far_vm.shell))
        for way in (path, back):
            shell = way.near_vm.shell
            arguments = way.transfer(_FILE, _AT_ONCE).arguments
            clients.append(stack.enter_context(shell.started(*shell.module(PROGRAM), *arguments)))
        for client in clients:
            wait_open(client)
        with ThreadPoolExecutor() as pool:
            both = list(pool.map(finish, clients))
        for way, moved in zip((path, back), both, strict=True):
            _no_errors(way, moved)
            _all_intact("upload", moved)
    return f"{_AT_ONCE} connections each way"
