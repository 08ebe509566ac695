"""Every key, value or name that is wrong gives one exact line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsdn.config.document import ConfigError, parse_document
from fedsdn.config.schema import validate
from tests.unit.bad_files import (
    GOOD,
    NAME,
    PORT_NAME,
    PROXY_PORT,
    RESERVED,
    SEGMENTATION_ID,
    SITE_NAME,
    UP1,
    UP2,
    UP2_A,
    UPLINK_ADDRESS,
    UPLINK_NAME,
    A,
    B,
    message,
)

BAD = {
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
        "write one of 'port', 'address', 'gateway', 'public', 'mac', 'gateway_mac'",
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
        "write one of 'port', 'address', 'gateway', 'public', 'mac', 'gateway_mac'",
    ),
    "no port": (
        "        port: eth1\n",
        "",
        f"11: {A}.{UP1}.port: found nothing; write {PORT_NAME}",
    ),
    "no port of an uplink that has a number for a name": (
        "      up1:\n        port: eth1\n",
        "      1:\n",
        f"11: {A}.uplinks.1.port: found nothing; write {PORT_NAME}",
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
        "write one of 'identity', 'provider_network', "
        "'source_restore', 'proxy', 'datagrams', 'prefixes', 'uplinks'",
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
    "a key of probes": (
        "sites:",
        f"probes: {{key: {'k' * 32}}}\nsites:",
        "2: probes.key: found an unknown key; write one of 'interval_ms', 'multiplier', 'hold_ms'",
    ),
    "tunnels' ports at the probes' port": (
        "proxy_port: 1080",
        "proxy_port: 4560\ndatagrams: {port: 4500}",
        "2: datagrams.port: found 4500, so that the tunnels have UDP ports 4500 to 4564; "
        "'proxy_port' 4560 is the probes'; write another port, as 51820",
    ),
    "too few tunnels' ports": (
        "sites:",
        "datagrams: {port: 65472}\nsites:",
        "2: datagrams.port: found the number 65472; write the first of 65 UDP ports that the "
        "tunnels have on the uplinks, 1024 to 65471",
    ),
    "which path": (
        "  a:\n",
        "  a:\n    datagrams: {prefer: fast}\n",
        "4: sites.a.datagrams.prefer: found 'fast'; write 'spread' (over all live paths, each flow "
        "on one) or 'latency' (all on the one with the least delay)",
    ),
    "probes too often": (
        "sites:",
        "probes: {interval_ms: 1}\nsites:",
        "2: probes.interval_ms: found the number 1; write the time between two probes of a path, "
        "10 to 60000 milliseconds",
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
        "1: proxy_port: found 1081, one of the ports at which the proxy accepts VMs' connections "
        "(1081 to 1144); "
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
    "proxy": (
        "  b:\n",
        "  b:\n    proxy: dante\n",
        "19: sites.b.proxy: found 'dante'; write whose proxy this site has: 'fedsdn', or 'socks5' "
        "where it is another's that speaks plain SOCKS5",
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
    "reserved router": (
        "eth1",
        "router",
        f"12: {A}.{UP1}.port: found 'router', a name of fedsdn's own ports; write {RESERVED}",
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
}


@pytest.mark.parametrize(("old", "new", "expected"), BAD.values(), ids=BAD.keys())
def test_bad_file_has_one_exact_message(old: str, new: str, expected: str) -> None:
    assert message(old, new) == f"federation.yaml:{expected}"


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
