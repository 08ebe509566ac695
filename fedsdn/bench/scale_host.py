"""What a large federation costs a real host: ``site up``, the application's start, one site less.

The host has a bridge of Open vSwitch's userspace datapath, and one site of the federation. Nobody
is at the other sites: the application's probes are answered by none, which is what costs it most.
"""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fedsdn.bench.scale import federation, own_identity
from fedsdn.config.loader import dump_federation
from fedsdn.config.model import Federation
from fedsdn.lab import operator
from fedsdn.lab.build import Progress
from fedsdn.lab.host import FEDERATION_FILE, Daemon, Host
from fedsdn.lab.machine import check_machine
from fedsdn.lab.process import start_detached
from fedsdn.lab.switch import start_switch
from fedsdn.lab.wait import wait_until
from fedsdn.pipeline.build import site_flows

_PATIENCE = 120.0
_SETTLED_SECONDS = 2.0
"""How long a change may still cost something after the bridge has it."""

_FIRST_ROUNDS_SECONDS = 12.0
"""What an application does after its start takes so long: it probes everybody once."""

_TICKS = os.sysconf("SC_CLK_TCK")
_COUNT = re.compile(r"flow_count=(\d+)")


@dataclass(frozen=True, slots=True)
class HostCosts:
    """Seconds of the processor, but for ``set_up_wall``; memory in bytes.

    ``set_up`` and ``nothing_to_do`` are of the first and the second ``fedsdn site up``, ``down`` is
    of ``fedsdn site down``. ``install`` is from the application's start until the bridge has all
    flows. ``less`` and ``more`` are one site that leaves and comes, with the file read, beyond what
    the idle application takes. ``idle`` is its share of a processor.
    """

    sites: int
    flows: int
    set_up: float
    set_up_wall: float
    nothing_to_do: float
    down: float
    install: float
    less: float
    more: float
    idle: float
    memory: int


def measure(sites: int, prefixes: int, idle_seconds: float, report: Progress) -> HostCosts:
    """Measure on a host made for it.

    Raises:
        FedsdnError: the host cannot be made, or something did not happen in time.

    """
    whole = federation(sites, prefixes)
    less = replace(whole, sites=whole.sites[:-1])
    with _host(whole) as host:
        report(f"{sites} sites: fedsdn site up")
        set_up, set_up_wall = _command(lambda: operator.site_up(host))
        nothing_to_do, _ = _command(lambda: operator.site_up(host))
        report(f"{sites} sites: the application")
        application = operator.start_controller(host)
        wanted = _flows(whole)
        _wait_for(host, application, lambda count: count >= wanted)
        install, flows = _used(application), _count(host, whole)
        time.sleep(_FIRST_ROUNDS_SECONDS)
        idle = _idle(application, idle_seconds)
        report(f"{sites} sites: one site less, and more")
        costs = [_change(host, application, to, idle) for to in (less, whole)]
        memory = _memory(application)
        application.signal("TERM")
        wait_until(lambda: not application.alive(), _PATIENCE, lambda: "the application runs")
        down, _ = _command(lambda: host.run("fedsdn", "site", "down"))
    return HostCosts(
        sites=sites,
        flows=flows,
        set_up=set_up,
        set_up_wall=set_up_wall,
        nothing_to_do=nothing_to_do,
        down=down,
        install=install,
        less=costs[0],
        more=costs[1],
        idle=idle,
        memory=memory,
    )


@contextmanager
def _host(whole: Federation) -> Iterator[Host]:
    """Have a host with the first site's bridge and settings."""
    check_machine()
    site = whole.sites[0]
    with TemporaryDirectory(prefix=f"fedsdn-scale-{os.getpid()}-") as directory:
        run = Path(directory) / "run"
        run.mkdir()
        log = Path(directory) / "host.log"
        process = start_detached(
            "fedsdn.lab.init", site.name, str(run), log=log, record=lambda _: None
        )
        try:
            host = Host(site.name, process, run)
            host.make_log_directory()
            ports = [uplink.port for uplink in site.uplinks]
            lines = [f"link add {port} type veth peer name far-{port}" for port in ports]
            lines += [f"link set {end}{port} up" for port in ports for end in ("", "far-")]
            host.run("ip", "-batch", "-", stdin="\n".join(lines))
            start_switch(host, system=False)
            bridge = site.provider_network.bridge
            command = ["add-br", bridge, "--", "set", "bridge", bridge]
            command += ["datapath_type=netdev", "fail_mode=secure"]
            for number, port in enumerate(ports, 4001):
                command += ["--", "add-port", bridge, port, f"tag={number}"]
            host.run("ovs-vsctl", *command)
            operator.write_settings(host, whole)
            operator.write_identity(host, own_identity(site.name))
            yield host
        finally:
            process.end()


def _command(work: Callable[[], object]) -> tuple[float, float]:
    """Return the processor's seconds of the commands that ``work`` runs, and those of the clock."""
    before, began = _children(), time.monotonic()
    work()
    return _children() - before, time.monotonic() - began


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _change(host: Host, application: Daemon, to: Federation, idle: float) -> float:
    """Return what a change of the file costs the application until the bridge has it, and after."""
    wanted, before = _flows(to), _count(host, to)
    used, began = _used(application), time.monotonic()
    _write(host, to)
    more = wanted > before
    _wait_for(host, application, lambda count: count >= wanted if more else count < before)
    time.sleep(_SETTLED_SECONDS)
    return max(0.0, _used(application) - used - idle * (time.monotonic() - began))


def _write(host: Host, to: Federation) -> None:
    file = host.run_directory / FEDERATION_FILE.relative_to("/run")
    new = file.with_suffix(".new")
    new.write_text(dump_federation(to))
    new.replace(file)


def _flows(whole: Federation) -> int:
    """Count the flows that the first site is to have at least: its bridge has no VMs' ports."""
    return sum(map(len, site_flows(whole, whole.sites[0].name).groups.values()))


def _count(host: Host, whole: Federation) -> int:
    bridge = whole.sites[0].provider_network.bridge
    found = _COUNT.search(host.run("ovs-ofctl", "-OOpenFlow13", "dump-aggregate", bridge))
    return int(found[1]) if found else 0


def _wait_for(host: Host, application: Daemon, enough: Callable[[int], bool]) -> None:
    whole = federation(2)

    def has() -> bool:
        return enough(_count(host, whole))

    wait_until(has, _PATIENCE, lambda: f"the flows do not come: {application.last_line()}")


def _idle(application: Daemon, seconds: float) -> float:
    before, began = _used(application), time.monotonic()
    time.sleep(seconds)
    return (_used(application) - before) / (time.monotonic() - began)


def _process(application: Daemon) -> Path:
    return Path(f"/proc/{application.host.process.pid}/root/proc/{application.number}")


def _used(application: Daemon) -> float:
    """Return the processor's seconds that it has used (proc(5), utime and stime)."""
    fields = (_process(application) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(application: Daemon) -> int:
    text = (_process(application) / "status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) * 1024


def table(every: Sequence[HostCosts]) -> tuple[str, list[str], list[list[str]]]:
    """Return title, headings and rows."""
    return (
        f"A host's CPU time by the number of sites (load average {os.getloadavg()[0]:.1f})",
        [
            *("sites", "flows", "site up", "by the clock", "again", "site down"),
            *("start to flows", "one less", "one more", "idle", "memory"),
        ],
        [
            [
                *(str(one.sites), str(one.flows), f"{one.set_up:.2f} s"),
                *(f"{one.set_up_wall:.1f} s", f"{one.nothing_to_do:.2f} s", f"{one.down:.2f} s"),
                *(f"{one.install:.2f} s", f"{one.less:.2f} s", f"{one.more:.2f} s"),
                *(f"{one.idle * 100:.1f} %", f"{one.memory / (1 << 20):.0f} MiB"),
            ]
            for one in every
        ],
    )
