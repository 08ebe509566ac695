"""Building a lab, and removing all of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedsdn.errors import FedsdnError
from fedsdn.identity.new import NewIdentity
from fedsdn.lab import integration, operator, wan
from fedsdn.lab.host import Host
from fedsdn.lab.identities import make_identities
from fedsdn.lab.lab import Lab
from fedsdn.lab.machine import check_machine, check_root
from fedsdn.lab.process import Process, start_detached
from fedsdn.lab.state import LabDirectory, State
from fedsdn.lab.switch import kernel_datapath, make_bridge, start_switch
from fedsdn.lab.topology import LabSite, Topology, WireEnd, load_topology
from fedsdn.lab.vms import make_vms

Progress = Callable[[str], None]
"""Takes a line of progress."""


def up(topology_file: Path, name: str | None = None, report: Progress = lambda _: None) -> Lab:
    """Build the lab of a topology file; remains of one with the same name are removed first.

    Raises:
        FedsdnError: it cannot be built; nothing of it is left but its logs.

    """
    text, identities = make_identities(topology_file)
    directory = LabDirectory(topology_file.stem if name is None else name)
    check_machine()
    with directory.locked(), _removed_unless_built(directory):
        _empty(directory)
        directory.topology_file.write_text(text)
        topology = load_topology(directory.topology_file)
        return _Builder(directory, topology, identities, report).build()


def down(name: str) -> None:
    """Remove a lab or its remains, if there are any.

    Raises:
        FedsdnError: another command holds its lock, or a process cannot be ended.

    """
    check_root()
    directory = LabDirectory(name)
    with directory.locked():
        directory.remove_kept_logs()
        _remove(directory)


@contextmanager
def _removed_unless_built(directory: LabDirectory) -> Iterator[None]:
    try:
        yield
    except FedsdnError as error:
        directory.keep_logs()
        _remove(directory)
        kept = str(error).replace(str(directory.path), str(directory.kept_logs))
        raise FedsdnError(kept) from error
    except BaseException:
        _remove(directory)
        raise


def _remove(directory: LabDirectory) -> None:
    _end_processes(directory.state())
    directory.remove()


def _empty(directory: LabDirectory) -> None:
    directory.remove_kept_logs()
    _end_processes(directory.state())
    for entry in directory.path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _end_processes(state: State) -> None:
    for process in (state.wan, *state.hosts.values()):
        if process is not None:
            process.end()


class _Builder:
    def __init__(
        self,
        directory: LabDirectory,
        topology: Topology,
        identities: Mapping[str, NewIdentity],
        report: Progress,
    ) -> None:
        self._directory = directory
        self._topology = topology
        self._identities = identities
        self._report = report
        self._state = State()
        self._lab = Lab(directory, topology, self._state)

    def build(self) -> Lab:
        self._report("making a host for each site")
        for site in self._topology.sites:
            self._start_host(site)
        self._report("making the wires")
        self._start_wan()
        system = kernel_datapath()
        self._report(f"starting Open vSwitch ({'system' if system else 'netdev'} datapath) and VMs")
        for site in self._topology.sites:
            host = self._lab.host(site.name)
            self._plug_in(host)
            make_vms(host, site)
            start_switch(host, system=system)
            federation_site = self._topology.federation.site(site.name)
            make_bridge(host, federation_site, site, system=system)
            if site.integration:
                self._report(f"giving site {site.name} an integration bridge ({site.integration})")
                integration.start(host, self._topology.federation, site, system=system)
        self._operate()
        return self._lab

    def _start_host(self, site: LabSite) -> None:
        run_directory = self._directory.run_directory(site.name)
        run_directory.mkdir()

        def record(process: Process) -> None:
            self._state.hosts[site.name] = process
            self._directory.save(self._state)

        log = self._directory.log(f"host-{site.name}")
        start_detached("fedsdn.lab.init", site.name, str(run_directory), log=log, record=record)
        self._lab.host(site.name).make_log_directory()

    def _start_wan(self) -> None:
        wires = [
            wan.WanWire(wire.name, self._wan_end(first), self._wan_end(second), wire.quality)
            for wire in self._topology.wires
            for first, second in [wire.ends]
        ]
        self._directory.wan_specification.write_text(wan.specification(wires))

        def record(process: Process) -> None:
            self._state.wan = process
            self._directory.save(self._state)

        start_detached(
            "fedsdn.lab.wan",
            str(self._directory.wan_specification),
            str(self._directory.wan_socket),
            log=self._directory.log("wan"),
            record=record,
        )

    def _wan_end(self, end: WireEnd) -> wan.WanEnd:
        return wan.WanEnd(end.name, self._state.hosts[end.site].pid, end.uplink.port)

    def _plug_in(self, host: Host) -> None:
        """Set the uplinks' devices up."""
        site = self._topology.federation.site(host.name)
        host.run(
            "ip", "-batch", "-", stdin="".join(f"link set {u.port} up\n" for u in site.uplinks)
        )

    def _operate(self) -> None:
        """Do at every site what its operator would."""
        federation = self._topology.federation
        hosts = list(self._lab.hosts)
        self._report("running fedsdn site up")
        for host in hosts:
            operator.write_settings(host, federation)
            operator.write_identity(host, self._identities[host.name])
            operator.site_up(host)
        self._report("starting osken-manager fedsdn.app and fedsdn proxy run")
        controllers = [operator.start_controller(host) for host in hosts]
        proxies = [operator.start_proxy(host) for host in hosts]
        for host, controller, proxy in zip(hosts, controllers, proxies, strict=True):
            operator.wait_for_controller(host, federation.site(host.name), controller)
            operator.wait_for_proxy(host, federation, proxy)
