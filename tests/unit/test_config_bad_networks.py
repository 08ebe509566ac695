"""Every prefix, address or uplink that does not fit the others gives one exact line."""

from __future__ import annotations

import pytest

from fedsdn.bench import scale
from fedsdn.config.document import ConfigError, parse_document
from fedsdn.config.loader import dump_federation, parse_federation
from tests.unit.bad_files import (
    ADDRESS,
    FILE,
    INTERFACE,
    NETWORK,
    PREFIX0,
    PREFIX1_B,
    UNICAST,
    UP1,
    UP2,
    UP2_B,
    A,
    B,
    message,
)

BAD = {
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


@pytest.mark.parametrize(("old", "new", "expected"), BAD.values(), ids=BAD.keys())
def test_bad_file_has_one_exact_message(old: str, new: str, expected: str) -> None:
    assert message(old, new) == f"federation.yaml:{expected}"


def test_a_few_of_many_uplinks_are_listed() -> None:
    """A line for people does not list 2,000 uplinks."""
    whole = dump_federation(scale.federation(9))
    text = whole.replace("        gateway: 172.16.0.2\n", "", 1)
    assert text != whole
    with pytest.raises(ConfigError) as caught:
        parse_federation(parse_document(text, FILE))
    listed = ", ".join(
        f"site-{number}/{uplink} '{net}.{4 * number + 1}/30'"
        for number in range(1, 5)
        for uplink, net in (("isp", "172.16.0"), ("lte", "172.20.0"))
    )
    assert f"from which none is reached of {listed} and 8 more; write " in str(caught.value)
