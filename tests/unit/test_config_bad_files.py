"""Every bad file gives one exact line: where, what was found, what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsdn.config.document import ConfigError, parse_document
from fedsdn.config.loader import load_federation, parse_federation
from fedsdn.config.schema import validate

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
RESERVED = "another name than 'socksifier', 'server' and 'wan-...'"
UPLINK_ADDRESS = (
    "the proxy's address on this uplink with the length of the on-link network, "
    "as '192.0.2.1/24' or '2001:db8:2::1/64'"
)
ADDRESS = "an IPv4 or IPv6 address, as '192.0.2.1' or 'fd00::1'"
INTERFACE = "an address and its network's length, as '192.0.2.1/24' or '2001:db8::1/64'"
NETWORK = "a network, as '10.1.0.0/24' or 'fd00:1::/64'"
UNICAST = "a unicast address that other sites can reach"
SEGMENTATION_ID = "the VLAN of the provider network, 1 to 4094"

KEY = (
    "write a secret of 32 or more characters that all sites share, "
    "as 'openssl rand -hex 32' prints one"
)

A, B = "sites.a", "sites.b"
UP1, UP2, PREFIX0 = "uplinks.up1", "uplinks.up2", "prefixes[0]"
UP2_A = "      up2:\n        port: eth2\n        address: 2001:db8:2::1/64\n"
UP2_B = UP2_A.replace("::1", "::2")
PREFIX1_B = "      - prefix: fd00:2::/64\n        proxy_address: fd00:2::2\n"

BAD = {
    # the file as YAML
    "empty": (
        GOOD,
        "",
        "1: found nothing; write the keys 'proxy_port', 'probes' and 'sites'",
    ),
    "comment only": (
        GOOD,
        "# x",
        "1: found nothing; write the keys 'proxy_port', 'probes' and 'sites'",
    ),
    "a word": (
        GOOD,
        "hello",
        "1: found 'hello'; write the keys 'proxy_port', 'probes' and 'sites'",
    ),
    "a list": (
        GOOD,
        "[]",
        "1: found an empty list; write the keys 'proxy_port', 'probes' and 'sites'",
    ),
    "probes without a key": (
        "sites:",
        "probes: {}\nsites:",
        f"2: probes.key: found nothing; {KEY}",
    ),
    "a short key": (
        "sites:",
        "probes: {key: secret}\nsites:",
        f"2: probes.key: found 'secret'; {KEY}",
    ),
    "a key of digits": (
        "sites:",
        f"probes: {{key: {7 * 10**17}}}\nsites:",
        f"2: probes.key: found the number {7 * 10**17}; {KEY}, in quotes",
    ),
    "probes too often": (
        "sites:",
        f"probes: {{key: {'k' * 32}, interval_ms: 1}}\nsites:",
        "2: probes.interval_ms: found the number 1; write the time between two probes of a path, "
        "10 to 60000 milliseconds",
    ),
    "unclosed": (
        GOOD,
        "sites: {a: [1,",
        "1: found no YAML at column 15 (expected the node content, but found '<stream end>'); "
        "write YAML",
    ),
    "tab": (
        "    prefixes",
        "\tprefixes",
        "5: found no YAML at column 1 (found character '\\t' that cannot start any token); "
        "write spaces instead of tabs",
    ),
    "IPv6 ending in a colon": (
        "fd00:1::2",
        "fd00:1::",
        "9: found no YAML at column 31 (mapping values are not allowed here); "
        "write 'KEY: VALUE', with IPv6 addresses in quotes",
    ),
    "two documents": (
        "sites:",
        "---\nsites:",
        "2: found a second YAML document; write one",
    ),
    "control character": (
        "eth1",
        "et\x07h1",
        "12: found the character '\\x07', which YAML does not allow; write the file as plain text",
    ),
    "too deep": (
        GOOD,
        "[" * 5000,
        "1: found lists or mappings nested too deep; write fewer levels",
    ),
    "bad escape": (
        "eth1",
        '"\\UFFFFFFFF"',
        "12: found an escape or directive that YAML does not have; write plain text",
    ),
    "duplicate key": (
        "  b:",
        "  a:",
        "18: sites.a: found the same key as on line 3; write each key once",
    ),
    "key that is a list": (
        "proxy_port: 1080",
        "[1]: 2",
        "1: found a list or mapping as key; write a name as key",
    ),
    "tag": (
        "eth1",
        "!secret eth1",
        f"12: {A}.{UP1}.port: found the tag '!secret'; write the value without a tag",
    ),
    "alias to itself": (
        GOOD,
        "sites: &x\n  a: *x",
        "2: sites.a: found an alias to the value it is part of; write the value itself",
    ),
    "aliases without end": (
        GOOD,
        "a: &a [1,2,3,4,5,6,7,8,9]\n"
        + "".join(
            f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]\n"
            for m, n in zip("abcde", "bcdef", strict=True)
        ),
        "1: found aliases to more than 100000 values; write fewer aliases",
    ),
    # keys
    "unknown key": (
        "proxy_port",
        "proxyport",
        "1: proxyport: found an unknown key; write 'proxy_port'",
    ),
    "unknown key, nothing near": (
        "        port: eth1",
        "        xyz: 1\n        port: eth1",
        f"12: {A}.{UP1}.xyz: found an unknown key; "
        "write one of 'port', 'address', 'gateway', 'public'",
    ),
    "misspelt key": (
        "address: 192.0.2.1",
        "adress: 192.0.2.1",
        f"13: {A}.{UP1}.adress: found an unknown key; write 'address'",
    ),
    "merge key": (
        "        port: eth2\n",
        "        <<: {port: eth2}\n",
        f"16: {A}.{UP2}.'<<': found an unknown key; "
        "write one of 'port', 'address', 'gateway', 'public'",
    ),
    "no port": (
        "        port: eth1\n",
        "",
        f"11: {A}.{UP1}.port: found nothing; write {PORT_NAME}",
    ),
    "no sites": (
        GOOD,
        "proxy_port: 1080",
        "1: sites: found nothing; write two sites or more, each under its name",
    ),
    "one site": (
        GOOD[GOOD.index("  b:") :],
        "",
        "2: sites: found a mapping of 1; write two sites or more, each under its name",
    ),
    "no uplinks": (
        UP2_A,
        UP2_A + "    unused:\n",
        "18: sites.a.unused: found an unknown key; "
        "write one of 'provider_network', 'source_restore', 'proxy', 'prefixes', 'uplinks'",
    ),
    "uplinks without value": (
        GOOD[GOOD.index("      up1") : GOOD.index("  b:")],
        "",
        "10: sites.a.uplinks: found nothing; write 1 to 8 uplinks, each under its name",
    ),
    "empty uplinks": (
        "uplinks:\n" + GOOD[GOOD.index("      up1") : GOOD.index("  b:")],
        "uplinks: {}\n",
        "10: sites.a.uplinks: found an empty mapping; write 1 to 8 uplinks, each under its name",
    ),
    "nine uplinks": (
        UP2_A,
        "".join(UP2_A.replace("up2", f"up{n}") for n in range(2, 10)),
        "10: sites.a.uplinks: found a mapping of 9; write 1 to 8 uplinks, each under its name",
    ),
    "no prefixes": (
        "prefixes:\n" + GOOD[GOOD.index("      - prefix: 10.1") : GOOD.index("    uplinks")],
        "prefixes: []\n",
        "5: sites.a.prefixes: found an empty list; "
        "write a list of this site's tenant networks, one or more",
    ),
    # types and ranges
    "proxy_port as text": (
        "1080",
        "socks",
        f"1: proxy_port: found 'socks'; write {PROXY_PORT}",
    ),
    "proxy_port too large": (
        "1080",
        "65536",
        f"1: proxy_port: found the number 65536; write {PROXY_PORT}",
    ),
    "proxy_port 0": ("1080", "0", f"1: proxy_port: found the number 0; write {PROXY_PORT}"),
    "proxy_port broken": (
        "1080",
        "1080.5",
        f"1: proxy_port: found the number 1080.5; write {PROXY_PORT}",
    ),
    "proxy_port of the socksifier": (
        "1080",
        "1081",
        "1: proxy_port: found 1081, at which the proxy itself takes the VMs' connections; "
        "write another port, as 1080",
    ),
    "port as number": (
        "eth1",
        "1",
        f"12: {A}.{UP1}.port: found the number 1; write {PORT_NAME}, in quotes",
    ),
    "address as list": (
        "192.0.2.1/24",
        "[192.0.2.1/24]",
        f"13: {A}.{UP1}.address: found a list of 1; write {UPLINK_ADDRESS}",
    ),
    "gateway empty": (
        " 192.0.2.254",
        "",
        f"14: {A}.{UP1}.gateway: found nothing; write the address of the router on this uplink, "
        "as '192.0.2.254', or leave 'gateway' out where peers are on-link",
    ),
    "vlan without id": (
        ", segmentation_id: 7",
        "",
        f"19: {B}.provider_network.segmentation_id: found nothing; write {SEGMENTATION_ID}",
    ),
    "flat with id": (
        "type: vlan",
        "type: flat",
        f"19: {B}.provider_network.segmentation_id: found the number 7; "
        "write 'type: vlan' with it, or leave 'segmentation_id' out",
    ),
    "id out of range": (
        "segmentation_id: 7",
        "segmentation_id: 4095",
        f"19: {B}.provider_network.segmentation_id: found the number 4095; write {SEGMENTATION_ID}",
    ),
    "unknown type": (
        "type: vlan",
        "type: vxlan",
        f"19: {B}.provider_network.type: found 'vxlan'; "
        "write 'flat', or 'vlan' with a 'segmentation_id'",
    ),
    # names
    "site name": ("  a:", "  a b:", f"3: sites.'a b': found the name 'a b'; write {SITE_NAME}"),
    "uplink name too long": (
        "      up1:",
        "      uplink-12345:",
        f"11: {A}.uplinks.uplink-12345: found the name 'uplink-12345'; write {UPLINK_NAME}",
    ),
    "port name too long": (
        "eth1",
        "enp0s31f6.123456",
        f"12: {A}.{UP1}.port: found 'enp0s31f6.123456'; write {PORT_NAME}",
    ),
    "port name with newline": (
        "eth1",
        '"eth1\\n"',
        f"12: {A}.{UP1}.port: found 'eth1\\n'; write {PORT_NAME}",
    ),
    "reserved port": (
        "eth1",
        "server",
        f"12: {A}.{UP1}.port: found 'server', a name of fedsdn's own ports; write {RESERVED}",
    ),
    "reserved prefix of ports": (
        "eth1",
        "wan-1",
        f"12: {A}.{UP1}.port: found 'wan-1', a name of fedsdn's own ports; write {RESERVED}",
    ),
    "reserved bridge": (
        "bridge: br-provider",
        "bridge: socksifier",
        f"4: {A}.provider_network.bridge: found 'socksifier', a name of fedsdn's own ports; "
        f"write {RESERVED}",
    ),
    "bridge as port": (
        "eth1",
        "br-provider",
        f"12: {A}.{UP1}.port: found 'br-provider', which is the bridge's own; "
        "write a port of this uplink alone",
    ),
    "duplicate port": (
        "eth2",
        "eth1",
        f"16: {A}.{UP2}.port: found 'eth1', which is uplink up1's (line 12); "
        "write a port of this uplink alone",
    ),
    # prefixes
    "not a network": (
        "10.1.0.0/24",
        "ten",
        f"6: {A}.{PREFIX0}.prefix: found 'ten', which has no length; write {NETWORK}",
    ),
    "network with netmask": (
        "10.1.0.0/24",
        "10.1.0.0/255.255.255.0",
        f"6: {A}.{PREFIX0}.prefix: found '10.1.0.0/255.255.255.0'; write {NETWORK}",
    ),
    "host bits": (
        "10.1.0.0/24",
        "10.1.0.5/24",
        f"6: {A}.{PREFIX0}.prefix: found '10.1.0.5/24', which has bits set after its /24; "
        "write '10.1.0.0/24'",
    ),
    "multicast prefix": (
        "10.1.0.0/24",
        "224.1.0.0/24",
        f"6: {A}.{PREFIX0}.prefix: found '224.1.0.0/24', a multicast address; write {UNICAST}",
    ),
    "overlapping prefixes": (
        "10.2.0.0/24\n        proxy_address: 10.2.0.2",
        "10.1.0.128/25\n        proxy_address: 10.1.0.130",
        f"21: {B}.{PREFIX0}.prefix: found '10.1.0.128/25', which overlaps '10.1.0.0/24' "
        "of site a (line 6); write a network of site b alone",
    ),
    "duplicate prefix": (
        "fd00:2::/64\n        proxy_address: fd00:2::2",
        "fd00:1:0::/64\n        proxy_address: fd00:1::9",
        f"23: {B}.prefixes[1].prefix: found 'fd00:1::/64', which overlaps 'fd00:1::/64' "
        "of site a (line 8); write a network of site b alone",
    ),
    "duplicate prefix, the rest unchanged": (
        "10.2.0.0/24",
        "10.1.0.0/24",
        f"21: {B}.{PREFIX0}.prefix: found '10.1.0.0/24', which overlaps '10.1.0.0/24' "
        "of site a (line 6); write a network of site b alone",
    ),
    "proxy address outside": (
        "proxy_address: 10.1.0.2",
        "proxy_address: 10.9.0.2",
        f"7: {A}.{PREFIX0}.proxy_address: found '10.9.0.2', "
        "which is outside the prefix '10.1.0.0/24'; write an address of '10.1.0.0/24'",
    ),
    "proxy address of the other family": (
        "proxy_address: 10.1.0.2",
        "proxy_address: fd00:1::3",
        f"7: {A}.{PREFIX0}.proxy_address: found 'fd00:1::3', "
        "which is outside the prefix '10.1.0.0/24'; write an address of '10.1.0.0/24'",
    ),
    "proxy address is the network's": (
        "proxy_address: 10.1.0.2",
        "proxy_address: 10.1.0.0",
        f"7: {A}.{PREFIX0}.proxy_address: found '10.1.0.0', the network address of "
        "'10.1.0.0/24'; write a host's address in '10.1.0.0/24'",
    ),
    "proxy address is the broadcast": (
        "proxy_address: 10.1.0.2",
        "proxy_address: 10.1.0.255",
        f"7: {A}.{PREFIX0}.proxy_address: found '10.1.0.255', the broadcast address of "
        "'10.1.0.0/24'; write a host's address in '10.1.0.0/24'",
    ),
    "proxy address is the anycast": (
        "proxy_address: fd00:1::2",
        'proxy_address: "fd00:1::"',
        f"9: {A}.prefixes[1].proxy_address: found 'fd00:1::', the subnet-router anycast address of "
        "'fd00:1::/64'; write a host's address in 'fd00:1::/64'",
    ),
    "proxy address with length": (
        "proxy_address: 10.1.0.2",
        "proxy_address: 10.1.0.2/24",
        f"7: {A}.{PREFIX0}.proxy_address: found '10.1.0.2/24'; write {ADDRESS}",
    ),
    "prefix family of one site": (
        PREFIX1_B,
        "",
        f"8: {A}.prefixes[1].prefix: found 'fd00:1::/64', but no other site has an IPv6 prefix; "
        "write an IPv6 prefix at another site too, or leave this one out",
    ),
    # uplink addresses
    "address without length": (
        "192.0.2.1/24",
        "192.0.2.1",
        f"13: {A}.{UP1}.address: found '192.0.2.1', which has no length; write {INTERFACE}",
    ),
    "no address": (
        "192.0.2.1/24",
        "192.0.2.1000/24",
        f"13: {A}.{UP1}.address: found '192.0.2.1000/24'; write {INTERFACE}",
    ),
    "length too long": (
        "192.0.2.1/24",
        "192.0.2.1/33",
        f"13: {A}.{UP1}.address: found '192.0.2.1/33'; write {INTERFACE}",
    ),
    "address with zone": (
        "2001:db8:2::1/64",
        "fe80::1%eth0/64",
        f"17: {A}.{UP2}.address: found 'fe80::1%eth0/64'; write {INTERFACE}",
    ),
    "link-local address": (
        "2001:db8:2::1/64",
        "fe80::1/64",
        f"17: {A}.{UP2}.address: found 'fe80::1/64', a link-local address; write {UNICAST}",
    ),
    "loopback address": (
        "192.0.2.1/24",
        "127.0.0.1/8",
        f"13: {A}.{UP1}.address: found '127.0.0.1/8', a loopback address; write {UNICAST}",
    ),
    "mapped address": (
        "2001:db8:2::1/64",
        '"::ffff:192.0.2.9/120"',
        f"17: {A}.{UP2}.address: found '::ffff:192.0.2.9/120', an IPv4 address written as IPv6; "
        f"write {UNICAST}",
    ),
    "address is the network's": (
        "192.0.2.1/24",
        "192.0.2.0/24",
        f"13: {A}.{UP1}.address: found '192.0.2.0/24', the network address of '192.0.2.0/24'; "
        "write a host's address in '192.0.2.0/24'",
    ),
    "duplicate address": (
        "2001:db8:2::2",
        "2001:db8:2::1",
        f"33: {B}.{UP2}.address: found '2001:db8:2::1/64', "
        f"which {A}.{UP2}.address (line 17) has already; write an address of this uplink alone",
    ),
    "public address of another": (
        "203.0.113.2",
        "192.0.2.1",
        f"30: {B}.{UP1}.public: found '192.0.2.1', "
        f"which {A}.{UP1}.address (line 13) has already; write an address of this uplink alone",
    ),
    "address in a prefix": (
        "2001:db8:2::1/64",
        "fd00:2::9/64",
        f"17: {A}.{UP2}.address: found 'fd00:2::9/64', which is in site b's prefix 'fd00:2::/64'; "
        "write an address outside all prefixes",
    ),
    "public address in a prefix": (
        "203.0.113.2",
        "10.1.0.77",
        f"30: {B}.{UP1}.public: found '10.1.0.77', which is in site a's prefix '10.1.0.0/24'; "
        "write an address outside all prefixes",
    ),
    "public of the other family": (
        "203.0.113.2",
        "2001:db8::5",
        f"30: {B}.{UP1}.public: found '2001:db8::5' beside the IPv4 address '198.51.100.2/24'; "
        "write an IPv4 address",
    ),
    "public without gateway": (
        "        gateway: 198.51.100.254\n",
        "",
        f"29: {B}.{UP1}.public: found '203.0.113.2' on an uplink without gateway; "
        f"write the NAT router's address under '{B}.{UP1}.gateway' too",
    ),
    "gateway outside": (
        "gateway: 192.0.2.254",
        "gateway: 192.0.3.254",
        f"14: {A}.{UP1}.gateway: found '192.0.3.254', "
        "which is outside the uplink's network '192.0.2.0/24'; "
        "write the router's address in '192.0.2.0/24'",
    ),
    "gateway of the other family": (
        "gateway: 192.0.2.254",
        "gateway: fe80::1",
        f"14: {A}.{UP1}.gateway: found 'fe80::1', "
        "which is outside the uplink's network '192.0.2.0/24'; "
        "write the router's address in '192.0.2.0/24'",
    ),
    "gateway is the broadcast": (
        "gateway: 192.0.2.254",
        "gateway: 192.0.2.255",
        f"14: {A}.{UP1}.gateway: found '192.0.2.255', the broadcast address of '192.0.2.0/24'; "
        "write a host's address in '192.0.2.0/24'",
    ),
    "gateway is the proxy": (
        "gateway: 192.0.2.254",
        "gateway: 192.0.2.1",
        f"14: {A}.{UP1}.gateway: found '192.0.2.1', the uplink's own address; "
        "write the router's address",
    ),
    # reach
    "family without a peer": (
        UP2_B,
        "",
        f"17: {A}.{UP2}.address: found '2001:db8:2::1/64', but no other site has an IPv6 uplink; "
        "write an IPv4 address, or an IPv6 uplink at another site",
    ),
    "no gateway and another network": (
        "        gateway: 192.0.2.254\n",
        "",
        f"13: {A}.{UP1}.address: found '192.0.2.1/24', "
        "from which none is reached of b/up1 '198.51.100.2/24'; "
        "write an address in the network of one of them, or gateways at both ends",
    ),
    "on-link for one only": (
        "2001:db8:2::2/64",
        "2001:db8:2::2/128",
        f"17: {A}.{UP2}.address: found '2001:db8:2::1/64', "
        "from which none is reached of b/up2 '2001:db8:2::2/128'; "
        "write an address in the network of one of them, or gateways at both ends",
    ),
    "proxy": (
        "  b:\n",
        "  b:\n    proxy: dante\n",
        "19: sites.b.proxy: found 'dante'; write whose proxy this site has: 'fedsdn', or 'socks5' "
        "where it is another's that speaks plain SOCKS5",
    ),
    "two sites apart": (
        "  b:\n",
        "  c:\n"
        "    prefixes: [{prefix: 10.3.0.0/24, proxy_address: 10.3.0.2}]\n"
        "    uplinks: {up: {port: p, address: 2001:db8:2::3/64}}\n"
        "  d:\n"
        "    prefixes: [{prefix: 10.4.0.0/24, proxy_address: 10.4.0.2}]\n"
        "    uplinks: {up: {port: p, address: 192.0.2.4/24}}\n"
        "  b:\n",
        "23: sites.d.uplinks: found no uplink that reaches one of site c; "
        "write an uplink on a network where both are, or gateways at both sites",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), BAD.values(), ids=BAD.keys())
def test_bad_file_has_one_exact_message(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        parse_federation(parse_document(GOOD.replace(old, new, 1), Path("federation.yaml")))
    assert str(caught.value) == f"federation.yaml:{message}"


def test_the_file_they_are_made_from_is_good() -> None:
    assert len(parse_federation(parse_document(GOOD, Path("federation.yaml"))).sites) == 2


LAB = """\
lab:
  wires:
    w: {ends: [a/up2, b/up2], delay_ms: 15, rate_mbit: 100}
  sites:
    a: {gateways: [10.1.0.1], vms: {vm1: [10.1.0.11]}}
federation:
"""

BAD_LAB = {
    "no lab": (
        LAB[: LAB.index("federation")],
        "",
        "1: lab: found nothing; write the lab: its 'wires' and its 'sites'",
    ),
    "in the federation": (
        "proxy_port: 1080",
        "proxy_port: no",
        f"7: federation.proxy_port: found 'no'; write {PROXY_PORT}",
    ),
    "one end": (
        "[a/up2, b/up2]",
        "[a/up2]",
        "3: lab.wires.w.ends: found a list of 1; write the wire's two ends, as '[a/up1, b/up1]'",
    ),
    "end": (
        "a/up2,",
        "a,",
        "3: lab.wires.w.ends[0]: found 'a'; write an uplink, as 'SITE/UPLINK'",
    ),
    "delay": (
        "15",
        "-1",
        "3: lab.wires.w.delay_ms: found the number -1; "
        "write the delay one way in milliseconds, 0 to 10000",
    ),
    "rate": (
        "100}",
        "100Mbit}",
        "3: lab.wires.w.rate_mbit: found '100Mbit'; "
        "write the rate each way in Mbit/s, more than 0 and at most 100000",
    ),
    "loss": (
        "100}",
        "100, loss_percent: 101}",
        "3: lab.wires.w.loss_percent: found the number 101; "
        "write the part of the frames that is lost, 0 to 100",
    ),
    "VM name too long": (
        "vm1",
        "a-very-long-name",
        "5: lab.sites.a.vms.a-very-long-name: found the name 'a-very-long-name'; "
        f"write a name of 1 to 15 {NAME}, the first a letter or digit",
    ),
    "VM without list": (
        "[10.1.0.11]",
        "10.1.0.11",
        "5: lab.sites.a.vms.vm1: found '10.1.0.11'; "
        "write the list of the VM's addresses, as '[10.1.0.11, \"fd00:1::11\"]'",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), BAD_LAB.values(), ids=BAD_LAB.keys())
def test_bad_lab_has_one_exact_message(old: str, new: str, message: str) -> None:
    topology = LAB + "".join(f"  {line}\n" for line in GOOD.splitlines())
    validate(parse_document(topology, Path("lab.yaml")), "topology")
    assert old in topology
    with pytest.raises(ConfigError) as caught:
        validate(parse_document(topology.replace(old, new, 1), Path("lab.yaml")), "topology")
    assert str(caught.value) == f"lab.yaml:{message}"


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "federation.yaml"
    with pytest.raises(ConfigError) as caught:
        load_federation(path)
    assert str(caught.value) == (
        f"{path}: found no readable file (No such file or directory); write the path of a YAML file"
    )


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_federation(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: found no readable file (Is a directory); write the path of a YAML file"
    )


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "federation.yaml"
    path.write_bytes(b"# one\n# caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load_federation(path)
    assert str(caught.value) == (
        f"{path}:2: found the byte 0xe9, which is not UTF-8; write the file in UTF-8"
    )
