"""Reads a federation file into values, and writes values as a federation file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fedsdn.config.addresses import parse_address, parse_interface, parse_network
from fedsdn.config.checks import check_federation
from fedsdn.config.document import Document, load_document
from fedsdn.config.identities import check_identities, identity_document, parse_identity
from fedsdn.config.model import (
    DEFAULT_DATAGRAMS_PORT,
    Federation,
    PairEncryption,
    Prefix,
    Probes,
    ProviderNetwork,
    Site,
    Uplink,
)
from fedsdn.config.rules_file import read_groups, read_rules, rules_document
from fedsdn.config.schema import validate

DEFAULT_PROXY_PORT = 1080
"""The SOCKS port of IANA's registry."""

DEFAULT_BRIDGE = "br-provider"

_PROBE_TIMES = ("interval", "hold")


def load_federation(path: Path) -> Federation:
    """Read a federation file, or the ``federation`` section of a topology file.

    Raises:
        ConfigError: the first error in the file, in one line.

    """
    section = federation_section(path)
    return parse_federation(section, of_lab=section.at != ())


def federation_section(path: Path) -> Document:
    """Read a file as YAML, and return what of it is a federation: all, or a topology's section.

    Raises:
        ConfigError: it is not YAML, or not a topology.

    """
    return federation_in(load_document(path))


def federation_in(document: Document) -> Document:
    """Return what of a document is a federation: all, or a topology's section.

    Raises:
        ConfigError: it is not a topology.

    """
    if not is_topology(document):
        return document
    validate(document, "topology")
    return document.section("federation")


def is_topology(document: Document) -> bool:
    """Whether this is a lab's topology file, which has its federation in a section."""
    return isinstance(document.value, dict) and "federation" in document.value


def parse_federation(document: Document, *, of_lab: bool = False) -> Federation:
    """Turn a document or a section into a federation, and check it in full.

    A lab's sites need no identities: they get them when it is built.

    Raises:
        ConfigError: the first error in it, in one line.

    """
    return with_sites(document, parse_sites(document), of_lab=of_lab)


def parse_sites(document: Document) -> tuple[Site, ...]:
    """Turn the sites of a document into values.

    Raises:
        ConfigError: the first error in it, in one line.

    """
    validate(document, "federation")
    return tuple(_site(name, site) for name, site in document.section("sites").items())


def with_sites(document: Document, sites: tuple[Site, ...], *, of_lab: bool = False) -> Federation:
    """Make a federation of ``sites``, and what else a valid document says; check it in full.

    The document may lack sites that were checked before. A lab's sites need no identities.

    Raises:
        ConfigError: the first error, in one line.

    """
    federation = Federation(
        sites=sites,
        proxy_port=int(document.value.get("proxy_port", DEFAULT_PROXY_PORT)),
        probes=_probes(document.value.get("probes", {})),
        default_encryption=document.value.get("encryption", "tls"),
        pairs=tuple(
            PairEncryption((pair["sites"][0], pair["sites"][1]), pair["encryption"])
            for pair in document.value.get("pairs", ())
        ),
        groups=read_groups(document, sites),
        allow=read_rules(document, sites),
        datagrams_port=int(document.value.get("datagrams", {}).get("port", DEFAULT_DATAGRAMS_PORT)),
    )
    check_federation(federation, document)
    check_identities(federation, document.section("sites"), required=not of_lab)
    return federation


def _probes(value: dict[str, Any]) -> Probes:
    times = {name: value[f"{name}_ms"] / 1000 for name in _PROBE_TIMES if f"{name}_ms" in value}
    counts = {"multiplier": int(value["multiplier"])} if "multiplier" in value else {}
    return Probes(**times, **counts)


def _site(name: str, document: Document) -> Site:
    return Site(
        name=name,
        provider_network=_provider_network(document.section("provider_network").value or {}),
        prefixes=tuple(_prefix(prefix) for prefix in document.section("prefixes").elements()),
        uplinks=tuple(
            _uplink(uplink_name, uplink)
            for uplink_name, uplink in document.section("uplinks").items()
        ),
        source_restore=document.value.get("source_restore", "transparent"),
        proxy=document.value.get("proxy", "fedsdn"),
        identities=tuple(
            parse_identity(name, one) for one in document.section("identity").elements()
        )
        if "identity" in document.value
        else (),
        prefer=document.value.get("datagrams", {}).get("prefer", "spread"),
    )


def _provider_network(value: dict[str, Any]) -> ProviderNetwork:
    segmentation_id = value.get("segmentation_id")
    return ProviderNetwork(
        bridge=value.get("bridge", DEFAULT_BRIDGE),
        segmentation_id=None if segmentation_id is None else int(segmentation_id),
        table_miss=value.get("table_miss", "none"),
    )


def _prefix(document: Document) -> Prefix:
    gateway = document.section("gateway")
    return Prefix(
        network=parse_network(document.section("prefix")),
        proxy_address=parse_address(document.section("proxy_address")),
        gateway=None if gateway.value is None else parse_address(gateway),
    )


def _uplink(name: str, document: Document) -> Uplink:
    gateway, public = document.section("gateway"), document.section("public")
    return Uplink(
        name=name,
        port=document.section("port").value,
        address=parse_interface(document.section("address")),
        gateway=None if gateway.value is None else parse_address(gateway),
        public=None if public.value is None else parse_address(public),
        mac=document.value.get("mac"),
        gateway_mac=document.value.get("gateway_mac"),
    )


def dump_federation(federation: Federation) -> str:
    """Write a federation as the text of a federation file."""
    document = federation_document(federation)
    return yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, width=1000)


def federation_document(federation: Federation) -> dict[str, Any]:
    """Return the content of a federation file as plain mappings, lists and strings."""
    return {
        "proxy_port": federation.proxy_port,
        "encryption": federation.default_encryption,
        **_pairs_document(federation),
        "probes": _probes_document(federation.probes),
        "datagrams": {"port": federation.datagrams_port},
        "sites": {site.name: site_document(site) for site in federation.sites},
        **rules_document(federation),
    }


def _pairs_document(federation: Federation) -> dict[str, Any]:
    pairs = [
        {"sites": list(pair.sites), "encryption": pair.encryption} for pair in federation.pairs
    ]
    return {"pairs": pairs} if pairs else {}


def _probes_document(probes: Probes) -> dict[str, Any]:
    times = {f"{name}_ms": round(getattr(probes, name) * 1000) for name in _PROBE_TIMES}
    return {"multiplier": probes.multiplier, **times}


def site_document(site: Site) -> dict[str, Any]:
    """Return a site's section of a federation file, likewise."""
    network = site.provider_network
    provider_network: dict[str, Any] = {"bridge": network.bridge, "type": "flat"}
    if network.segmentation_id is not None:
        provider_network |= {"type": "vlan", "segmentation_id": network.segmentation_id}
    identity = [identity_document(one) for one in site.identities]
    return {
        **({"identity": identity} if identity else {}),
        "provider_network": provider_network | {"table_miss": network.table_miss},
        "prefixes": [_prefix_document(prefix) for prefix in site.prefixes],
        "uplinks": {uplink.name: _uplink_document(uplink) for uplink in site.uplinks},
        "source_restore": site.source_restore,
        "proxy": site.proxy,
        "datagrams": {"prefer": site.prefer},
    }


def _prefix_document(prefix: Prefix) -> dict[str, str]:
    document = {"prefix": str(prefix.network), "proxy_address": str(prefix.proxy_address)}
    if prefix.gateway is not None:
        document["gateway"] = str(prefix.gateway)
    return document


def _uplink_document(uplink: Uplink) -> dict[str, str]:
    document = {"port": uplink.port, "address": str(uplink.address)}
    if uplink.gateway is not None:
        document["gateway"] = str(uplink.gateway)
    if uplink.public is not None:
        document["public"] = str(uplink.public)
    if uplink.mac is not None:
        document["mac"] = uplink.mac
    if uplink.gateway_mac is not None:
        document["gateway_mac"] = uplink.gateway_mac
    return document
