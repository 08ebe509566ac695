"""What probing many peers costs the application, and what it tells the proxy of them.

The monitor of the uplinks is the real one, with its sockets and the kernel's path manager, in a
network namespace and a process of its own, whose processor time counts. The far ends are one
process, which answers every probe in the name of whichever site it was sent to.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import resource
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Address, ip_interface
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedsdn import namespace
from fedsdn.channel.paths import PathTable
from fedsdn.config.model import Federation, Identity, ProviderNetwork, Site, Uplink
from fedsdn.damped_log import DampedLog
from fedsdn.identity.store import OwnKeys
from fedsdn.uplinks.monitor import Namespace, UplinkMonitor
from fedsdn.uplinks.news import PathNews
from fedsdn.uplinks.pace import SHARES, Kind
from fedsdn.uplinks.pair_keys import NAME_BYTES, pair_keys
from fedsdn.uplinks.paths import Paths
from fedsdn.uplinks.probe import Probe, decode
from fedsdn.uplinks.signed import SignedProbes
from fedsdn.uplinks.status import PathState, PortState, read_status

BUSY = 10
"""So many peers have connections in the second measurement."""

UPLINKS = ("up1", "up2")
"""Each site has two, and so four paths to each peer."""

_PORT = 1080
_HERE = "here"
_NEAR = IPv4Address("10.255.0.1")
_GATEWAY = IPv4Address("10.255.0.254")
_FAR = IPv4Address("10.0.0.0")
_FAR_NETWORK = "10.0.0.0/9"
_LIMIT_SECONDS = 60.0
_IP_PKTINFO = 8
_PKTINFO = struct.Struct("=I4s4s")
"""``IP_PKTINFO`` and ``struct in_pktinfo`` of ip(7): interface, own address, destination."""


@dataclass(frozen=True, slots=True)
class ProbeCost:
    """CPU seconds a second with so many peers, idle, and with ``BUSY`` of them in use.

    ``probes`` are sent a second then; ``told`` are the bytes a second for each worker while idle.
    ``datagram`` is for taking in a probe and judging by it, ``all_dead`` for judging all paths when
    every peer has fallen silent, ``keys`` for computing the keys with all peers, in turns of which
    the longest took ``keys_turn``; CPU seconds.
    """

    peers: int
    paths: int
    idle: float
    idle_probes: float
    busy: float
    busy_probes: float
    told: float
    datagram: float
    all_dead: float
    keys: float
    keys_turn: float


def federation(peers: int) -> Federation:
    """Make a federation of site ``here`` and so many peers; all uplinks are behind routers."""
    here = _site(_HERE, _NEAR)
    return Federation((here, *(_site(f"peer-{n}", _FAR + 2 * n + 2) for n in range(peers))), _PORT)


def _site(name: str, first: IPv4Address) -> Site:
    uplinks = tuple(
        Uplink(uplink, uplink, ip_interface(f"{first + number}/24"), gateway=_GATEWAY)
        for number, uplink in enumerate(UPLINKS)
    )
    # Its keys are those of probes alone, and follow from its name: two processes make them.
    key = _private_key(name).public_key().public_bytes_raw()
    identity = Identity(name.encode(), key, key)
    return Site(name, ProviderNetwork("br-provider"), (), uplinks, identities=(identity,))


def _private_key(name: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


def _own_keys(name: str) -> OwnKeys:
    key = _private_key(name).private_bytes_raw()
    return OwnKeys(key, key)


def measure(peers: int, seconds: float) -> ProbeCost:
    """Measure, for so many seconds without and with connections."""
    datagram, all_dead = judgements(peers)
    keys, keys_turn = key_costs(peers)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with _wired() as (near, far), TemporaryDirectory(prefix="fedsdn-bench-") as directory:
        answering = context.Process(target=_answer, args=(far, peers), daemon=True)
        watching = context.Process(
            target=_watch, args=(near, peers, seconds, Path(directory), theirs), daemon=True
        )
        processes = (answering, watching)
        for process in processes:
            process.start()
        try:
            if not ours.poll(_LIMIT_SECONDS + 2 * seconds):
                raise TimeoutError("the monitor does not come to an end")
            found: dict[str, float] = ours.recv()
        finally:
            for process in processes:
                process.terminate()
                process.join()
    costs = {"datagram": datagram, "all_dead": all_dead, "keys": keys, "keys_turn": keys_turn}
    return ProbeCost(peers, 4 * peers, **found, **costs)


@contextmanager
def _wired() -> Iterator[tuple[str, str]]:
    """Make two namespaces that a wire joins; the second has all addresses of the far network."""
    near, far = (f"probes-{end}-{os.getpid()}" for end in ("near", "far"))
    try:
        for name in (near, far):
            namespace.create(name)
        _ip(near, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", far)
        for name in (near, far):
            _ip(name, "link", "set", "lo", "up")
            _ip(name, "link", "set", "wire", "up")
        for number in range(len(UPLINKS)):
            _ip(near, "address", "add", f"{_NEAR + number}/24", "dev", "wire")
        _ip(far, "address", "add", f"{_GATEWAY}/24", "dev", "wire")
        _ip(far, "route", "add", "local", _FAR_NETWORK, "dev", "lo")
        _ip(near, "route", "add", _FAR_NETWORK, "via", str(_GATEWAY))
        yield near, far
    finally:
        for name in (near, far):
            namespace.delete(name)


def _ip(name: str, *command: str) -> None:
    subprocess.run(["ip", "-n", name, *command], check=True)


# The far ends


def _answer(name: str, peers: int) -> None:
    """Be all peers: answer every probe with one."""
    namespace.enter(name)
    near = _private_key(_HERE).public_key().public_bytes_raw()
    sites = [f"peer-{number}" for number in range(peers)]
    pairs = [pair_keys(site, _private_key(site), _HERE, near) for site in sites]
    answering = {coming.name: (coming, going) for going, coming in pairs}
    epoch, number = time.time_ns(), 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind(("", _PORT))
        while True:
            datagram, [(_, _, about)], _, sender = sock.recvmsg(2048, 256)
            _, _, own = _PKTINFO.unpack(about)
            number += 1
            coming, going = answering[datagram[:NAME_BYTES]]
            probe, _ = decode(datagram, lambda _, key=coming: key)  # type: ignore[misc]
            answer = _answered(probe, epoch, number).encode(going)
            source = (socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO.pack(0, own, bytes(4)))
            with suppress(OSError):
                sock.sendmsg([answer], [source], 0, sender)


def _answered(probe: Probe, epoch: int, number: int) -> Probe:
    return Probe(
        site=probe.to,
        uplink=probe.to_uplink,
        to=probe.site,
        to_uplink=probe.uplink,
        epoch=epoch,
        number=number,
        heard_epoch=probe.epoch,
        heard=probe.number,
        heard_ago=0,
        every=probe.every,
        wanted=False,
        file=probe.file,
        down=(),
        lost=(),
        leaving=False,
        asks=0,
        answers=probe.asks,
    )


# This end


def _watch(near: str, peers: int, seconds: float, directory: Path, pipe: Pipe) -> None:
    namespace.enter(near)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pipe.send(asyncio.run(_watched(near, peers, seconds, directory / "uplinks.json")))


async def _watched(near: str, peers: int, seconds: float, file: Path) -> dict[str, float]:
    table, told = PathTable(), [0]

    def tell(news: PathNews) -> None:
        told[0] += len(table.take(news))

    here = Namespace(near, lambda work: work(), lambda: None)
    with ThreadPoolExecutor(1) as executor:
        monitor = UplinkMonitor(
            federation(peers),
            _HERE,
            here,
            lambda site: [_own_keys(site.name)],
            tell,
            executor,
            file,
        )
        running = asyncio.create_task(monitor.run())
        monitor.set_ports(dict.fromkeys(UPLINKS, PortState.UP))
        await _until_up(running, file)
        idle = await _spent(seconds, lambda: told[0], lambda: monitor.sockets.sent)
        monitor.need(frozenset(f"peer-{number}" for number in range(min(BUSY, peers))))
        await asyncio.sleep(1)
        busy = await _spent(seconds, lambda: told[0], lambda: monitor.sockets.sent)
        running.cancel()
        await asyncio.wait([running])
        monitor.close()
    return {
        "idle": idle[0],
        "told": idle[1],
        "idle_probes": idle[2],
        "busy": busy[0],
        "busy_probes": busy[2],
    }


async def _until_up(running: asyncio.Task[None], file: Path) -> None:
    """Wait until all paths are up, and what comes of that is done."""
    async with asyncio.timeout(_LIMIT_SECONDS):
        while True:
            await asyncio.sleep(1)
            if running.done():
                running.result()
            status = read_status(file)
            if status and all(path.state is PathState.UP for path in status.paths):
                break
    rate, longest = SHARES[Kind.IDLE]
    await asyncio.sleep(min(len(status.paths) / rate, longest) + 1)


async def _spent(seconds: float, *counters: Callable[[], int]) -> tuple[float, ...]:
    """Return processor time, and how much counters have grown, a second."""
    before, began = (time.process_time(), *(count() for count in counters)), time.monotonic()
    await asyncio.sleep(seconds)
    after = time.process_time(), *(count() for count in counters)
    took = time.monotonic() - began
    return tuple((now - then) / took for now, then in zip(after, before, strict=True))


# Without sockets


def judgements(peers: int) -> tuple[float, float]:
    """Return CPU seconds of a datagram, and of judging when all peers have fallen silent."""
    now = 1000.0
    paths = Paths(federation(peers), _HERE, 1, now)
    paths.set_ports(dict.fromkeys(UPLINKS, PortState.UP), now)
    _, longest = SHARES[Kind.IDLE]
    number = 0
    for _ in range(2):  # at first the peers appear
        until, taken, spent = now + longest, 0, 0.0
        while now < until:
            now = max(now + 0.001, paths.next_turn())
            _judge_all(paths, now)
            number += 1
            answers = [(path.way, _answered(probe, 1, number)) for path, probe in paths.probes(now)]
            began = time.process_time()
            for way, answer in answers:
                paths.take(answer, way, now + 0.0001)
            _judge_all(paths, now + 0.0001)
            spent += time.process_time() - began
            taken += len(answers)
    began = time.process_time()
    _judge_all(paths, now + 10 * SHARES[Kind.IDLE][1])
    return spent / max(taken, 1), time.process_time() - began


def _judge_all(paths: Paths, now: float) -> None:
    paths.judge(now)
    while paths.next_turn() == float("-inf"):
        paths.judge(now)


def key_costs(peers: int) -> tuple[float, float]:
    """Return CPU seconds of computing all keys, and of the longest turn of it."""
    signed = SignedProbes(_HERE, DampedLog(logging.getLogger(__name__)))
    whole = federation(peers)
    signed.set([_own_keys(_HERE)], whole.peers(_HERE))
    turns, more = [], True
    while more:
        began = time.process_time()
        more = signed.derive()
        turns.append(time.process_time() - began)
    return sum(turns), max(turns)


def table(every: list[ProbeCost]) -> tuple[str, list[str], list[list[str]]]:
    """Return title, headings and rows."""
    return (
        f"The application's processor time for probes, idle and with {BUSY} peers in use",
        [
            *("peers", "paths", "idle", "probes", "in use", "probes"),
            *("told a worker", "a datagram", "all silent", "all keys", "a turn of it"),
        ],
        [
            [
                *(str(one.peers), str(one.paths)),
                *(f"{one.idle * 100:.1f} %", f"{one.idle_probes:.0f}/s"),
                *(f"{one.busy * 100:.1f} %", f"{one.busy_probes:.0f}/s"),
                f"{one.told:.0f} B/s",
                *(f"{one.datagram * 1e6:.0f} µs", f"{one.all_dead * 1000:.1f} ms"),
                *(f"{one.keys * 1000:.0f} ms", f"{one.keys_turn * 1000:.1f} ms"),
            ]
            for one in every
        ],
    )
