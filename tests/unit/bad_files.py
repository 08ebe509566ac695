"""The good file that bad ones are made from, and what errors say to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsdn.config.document import ConfigError, parse_document
from fedsdn.config.loader import parse_federation

FILE = Path("federation.yaml")

GOOD = """\
proxy_port: 1080
sites:
  a:
    provider_network: {bridge: br-provider, type: flat, table_miss: normal}
    prefixes:
      - prefix: 10.1.0.0/24
        proxy_address: 10.1.0.2
      - prefix: fd00:1::/64
        proxy_address: fd00:1::2
    uplinks:
      up1:
        port: eth1
        address: 192.0.2.1/24
        gateway: 192.0.2.254
      up2:
        port: eth2
        address: 2001:db8:2::1/64
  b:
    provider_network: {type: vlan, segmentation_id: 7}
    prefixes:
      - prefix: 10.2.0.0/24
        proxy_address: 10.2.0.2
      - prefix: fd00:2::/64
        proxy_address: fd00:2::2
    uplinks:
      up1:
        port: eth1
        address: 198.51.100.2/24
        gateway: 198.51.100.254
        public: 203.0.113.2
      up2:
        port: eth2
        address: 2001:db8:2::2/64
"""

NAME = "letters, digits, '_', '.' and '-'"
SITE_NAME = f"a name of 1 to 32 {NAME}, the first a letter or digit"
UPLINK_NAME = (
    f"a name of 1 to 11 {NAME}, the first a letter or digit (port wan-NAME has at most 15)"
)
PORT_NAME = f"the name of the uplink's port on the bridge, at most 15 {NAME}"
PROXY_PORT = "the TCP port of the SOCKS servers on the uplinks, 1 to 65535"
RESERVED = "another name than 'socksifier', 'server', 'router' and 'wan-...'"
UPLINK_ADDRESS = (
    "the proxy's address on this uplink with the length of the on-link network, "
    "as '192.0.2.1/24' or '2001:db8:2::1/64'"
)
ADDRESS = "an IPv4 or IPv6 address, as '192.0.2.1' or 'fd00::1'"
INTERFACE = "an address and its network's length, as '192.0.2.1/24' or '2001:db8::1/64'"
NETWORK = "a network, as '10.1.0.0/24' or 'fd00:1::/64'"
UNICAST = "a unicast address that other sites can reach"
SEGMENTATION_ID = "the VLAN of the provider network, 1 to 4094"

A, B = "sites.a", "sites.b"
UP1, UP2, PREFIX0 = "uplinks.up1", "uplinks.up2", "prefixes[0]"
UP2_A = "      up2:\n        port: eth2\n        address: 2001:db8:2::1/64\n"
UP2_B = UP2_A.replace("::1", "::2")
PREFIX1_B = "      - prefix: fd00:2::/64\n        proxy_address: fd00:2::2\n"


def message(old: str, new: str) -> str:
    """Return what is said of the good file with ``new`` in place of ``old``."""
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        parse_federation(parse_document(GOOD.replace(old, new, 1), FILE), of_lab=True)
    return str(caught.value)
