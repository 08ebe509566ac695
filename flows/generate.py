"""Write flows/ anew from running labs: ``make flows``.

Brings every topology of topo/ up, takes each site's flows as ovs-ofctl prints them, and fills
PIPELINE.md with those of the sites called a.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fedsdn.errors import FedsdnError
from fedsdn.inspect.flows.pipeline_document import filled, own_flows
from fedsdn.lab import build
from fedsdn.lab.lab import Lab
from fedsdn.lab.topology import load_topology

FLOWS = Path(__file__).parent
TOPOLOGIES = FLOWS.parent / "topo"
DOCUMENT = FLOWS / "PIPELINE.md"

_DUMP = ("ovs-ofctl", "-O", "OpenFlow13", "--names", "--no-stats", "dump-flows")


def topologies() -> list[Path]:
    """List every topology that has reference dumps.

    An integration bridge's owner numbers VLANs and ports as they come, so those have none.
    """
    every = sorted(TOPOLOGIES.glob("*.yaml"))
    return [one for one in every if not any(site.integration for site in load_topology(one).sites)]


def dumps(lab: Lab, topology: Path) -> dict[Path, str]:
    """Take the reference dumps of a lab's sites, by the file they belong into."""
    found = {}
    for host in lab.hosts:
        bridge = lab.topology.federation.site(host.name).provider_network.bridge
        flows = own_flows(host.run(*_DUMP, bridge).splitlines())
        found[FLOWS / topology.stem / f"{host.name}.flows"] = "".join(f"{flow}\n" for flow in flows)
    return found


def document() -> str:
    """Fill PIPELINE.md with the flows of the reference dumps."""
    flows = {dump.parent.name: dump.read_text().splitlines() for dump in FLOWS.glob("*/a.flows")}
    return filled(DOCUMENT.read_text(), flows)


def main() -> None:
    """Write every file that is generated."""
    for topology in topologies():
        name = f"flows-{topology.stem}"
        try:
            files = dumps(build.up(topology, name), topology)
        finally:
            build.down(name)
        for path, text in files.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(path.relative_to(FLOWS.parent))
    DOCUMENT.write_text(document())


if __name__ == "__main__":
    try:
        main()
    except FedsdnError as error:
        sys.exit(f"flows: {error}")
