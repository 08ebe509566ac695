"""A real machine as the host of one site of a lab: its bridge, its VMs, its wires' quality.

The machines' own networks join the sites. The site itself is set up like any real one.
"""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass
from pathlib import Path

from fedsdn.config.local import DEFAULT_CONFIG_FILE
from fedsdn.config.model import Site
from fedsdn.errors import FedsdnError
from fedsdn.lab.commands import run_to_end
from fedsdn.lab.machine import check_machine
from fedsdn.lab.switch import kernel_datapath, make_bridge
from fedsdn.lab.topology import Topology, load_topology
from fedsdn.lab.vms import make_vms
from fedsdn.lab.wire import Quality

_OURS = "# Written by 'fedsdn lab machine'; it will be overwritten.\n"
_FRAME_BYTES = 1514


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """The local machine as the host of site ``name``."""

    name: str

    def run(self, *command: str, stdin: str = "", vm: str | None = None) -> str:
        """Run a command here, or in one of the VMs, and return its standard output.

        Raises:
            FedsdnError: it failed; one line with the last line of its output.

        """
        prefix = () if vm is None else ("ip", "netns", "exec", vm)
        return run_to_end(self.name if vm is None else f"{self.name}/{vm}", prefix, command, stdin)


def become_host(
    topology_file: Path, name: str, settings: Path = DEFAULT_CONFIG_FILE.parent
) -> None:
    """Make this machine the host of a site: settings, bridge, VMs, and what its wires do.

    What is there is left as it is. A wire's quality is netem's, on frames that leave. The
    federation file is not made: all sites' keys are to be in it.

    Raises:
        FedsdnError: it cannot be; says what is missing.

    """
    topology = load_topology(topology_file)
    check_machine()
    site = topology.federation.site(name)
    lab = next(lab for lab in topology.sites if lab.name == name)
    if lab.integration:
        raise FedsdnError(
            f"site {name}: 'integration: {lab.integration}' is for labs on one machine: leave it "
            f"out of {topology_file}, and install what is to own br-int"
        )
    devices = {name for _index, name in socket.if_nameindex()}
    for uplink in site.uplinks:
        if uplink.port not in devices:
            raise FedsdnError(
                f"site {name}: found no interface {uplink.port} for uplink {uplink.name}: "
                f"name one of this machine's in {topology_file}, see 'ip link'"
            )
    _write_settings(settings, name)
    here = ThisMachine(name)
    make_vms(here, lab)
    make_bridge(here, site, lab, system=kernel_datapath())
    _plug_in(here, site, topology)


def _write_settings(directory: Path, name: str) -> None:
    file = directory / DEFAULT_CONFIG_FILE.name
    if file.exists() and not file.read_text().startswith(_OURS):
        raise FedsdnError(
            f"{file} is somebody's: this machine is a real site; use another one for a lab, "
            "or move the file away"
        )
    directory.mkdir(parents=True, exist_ok=True)
    federation = directory / "federation.yaml"
    file.write_text(f"{_OURS}[fedsdn]\nsite = {name}\nfederation = {federation}\n")


def _plug_in(here: ThisMachine, site: Site, topology: Topology) -> None:
    """Set the uplinks' devices up, with the quality of the wires at their ends."""
    qualities = {end.name: wire.quality for wire in topology.wires for end in wire.ends}
    for uplink in site.uplinks:
        quality = qualities[f"{site.name}/{uplink.name}"]
        here.run("tc", "qdisc", "replace", "dev", uplink.port, "root", "netem", *netem(quality))
        here.run("ip", "link", "set", uplink.port, "up")


def netem(quality: Quality) -> tuple[str, ...]:
    """Say a wire's quality as arguments of netem (tc-netem(8)).

    netem's queue holds frames that wait for their turn and frames that are under way alike.
    """
    milliseconds = quality.delay_ms + quality.queue_ms
    frames = math.ceil(milliseconds * quality.rate_mbit * 1e3 / 8 / _FRAME_BYTES)
    return (
        *("limit", str(max(frames, 2))),
        *("delay", f"{quality.delay_ms:g}ms"),
        *("loss", f"{quality.loss_percent:g}%"),
        *("rate", f"{quality.rate_mbit:g}mbit"),
    )
