"""Identities for the sites of a lab: a topology file has none, each lab gets its own."""

from __future__ import annotations

from pathlib import Path

import yaml

from fedsdn.config.document import Document, load_document
from fedsdn.config.identities import identity_document
from fedsdn.identity.new import NewIdentity, make
from fedsdn.lab.topology import load_topology


def make_identities(topology_file: Path) -> tuple[str, dict[str, NewIdentity]]:
    """Make an identity for each site of a topology file.

    Returns:
        The topology with them, as text, and the identities by the names of their sites.

    Raises:
        ConfigError: something in the file is wrong; one line that names it.

    """
    sites = load_topology(topology_file).sites
    own = {site.name: make(site.name) for site in sites}
    return _with_identities(load_document(topology_file), own), own


def _with_identities(document: Document, own: dict[str, NewIdentity]) -> str:
    for name, site in document.value["federation"]["sites"].items():
        site["identity"] = [identity_document(own[name].identity)]
    return yaml.dump(document.value, Dumper=yaml.CSafeDumper, sort_keys=False, width=1000)
