"""Real packets through what fedsdn site up makes; small programs stand in for the proxy.

The bridge has the pipeline's flows, put there once with ovs-ofctl: no controller runs.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from fedsdn.pipeline.declarations import port_mac, wan_port
from tests.real.handing_in import handing_in
from tests.real.site_host import BRIDGE, SiteHost, federation, wait_until

pytestmark = pytest.mark.real

BYTES = 4_000_000

# In the programs: 19 is IP_TRANSPARENT, 75 is IPV6_TRANSPARENT (linux/in.h, linux/in6.h).

SOCKSIFIER = """
import json, socket
listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 2)
listener.setsockopt(socket.SOL_IP, 19, 1)
listener.setsockopt(socket.IPPROTO_IPV6, 75, 1)
listener.bind(("::", 1081))
listener.listen()
while True:
    leg, client = listener.accept()
    leg.settimeout(60)
    received = 0
    while data := leg.recv(1 << 16):
        received += len(data)
    about = [client[:2], leg.getsockname()[:2], leg.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)]
    leg.sendall(json.dumps([*about, received]).encode() + bytes({bytes}))
    leg.close()
"""

CLIENT = """
import socket, sys
family = socket.AF_INET6 if ":" in {address!r} else socket.AF_INET
vm = socket.socket(family, socket.SOCK_STREAM)
vm.settimeout({timeout})
if {source!r}:
    vm.setsockopt(socket.SOL_IP, 19, 1)
    vm.setsockopt(socket.IPPROTO_IPV6, 75, 1) if ":" in {address!r} else None
    vm.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 3)
    vm.bind(({source!r}, {port}))
try:
    vm.connect(({address!r}, 80))
except OSError as error:
    sys.exit(print(type(error).__name__))
vm.sendall(bytes({bytes}))
vm.shutdown(socket.SHUT_WR)
answer = b""
while data := vm.recv(1 << 16):
    answer += data
head = answer.rstrip(bytes(1))
print(len(answer) - len(head), head.decode())
"""

SERVER = """
import json, socket
listener = socket.create_server(("::", {port}), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    leg, client = listener.accept()
    leg.settimeout(60)
    received = 0
    while data := leg.recv(1 << 16):
        received += len(data)
    leg.sendall(json.dumps([client[0].removeprefix("::ffff:"), client[1], received]).encode())
    leg.sendall(bytes({bytes}))
    leg.close()
"""


class Ground:
    """A site's host with a VM of addresses 10.1.0.11 and fd00:1::11, and a peer behind up1."""

    def __init__(self, host: SiteHost) -> None:
        self.host = host
        peer = federation().site("b")
        mac = port_mac(peer, wan_port(peer.uplinks[0]))
        for command in (
            f"ip link set {BRIDGE} addrgenmode none up",
            f"ip address add 10.1.0.1/24 dev {BRIDGE}",
            f"ip address add fd00:1::1/64 dev {BRIDGE} nodad",
            "ip netns add vm",
            "ip link add tap-vm type veth peer name eth0 netns vm",
            f"ip link set tap-vm up && ovs-vsctl add-port {BRIDGE} tap-vm tag=0",
            "ip -n vm link set lo up && ip -n vm link set eth0 up",
            "ip -n vm address add 10.1.0.11/24 dev eth0",
            "ip -n vm address add fd00:1::11/64 dev eth0 nodad",
            "ip -n vm route add default via 10.1.0.1",
            "ip -n vm route add default via fd00:1::1",
            "ip netns add peer",
            f"ip link set far1 netns peer address {mac} && ip -n peer link set far1 up",
            "ip -n peer address add 192.0.2.2/24 dev far1",
            "ip -n peer address add 192.0.2.9/24 dev far1",
        ):
            host.output(command)
        if host.output("ovs-vsctl get o . other_config") == "{}\n":
            # The same as site up does for its own ports: the datapath passes no checksums on.
            host.output(
                "ethtool --offload tap-vm tx off; ip netns exec vm ethtool --offload eth0 tx off; "
                "ethtool --offload up1 tx off; ip netns exec peer ethtool --offload far1 tx off; "
                f"ethtool --offload {BRIDGE} tx off"
            )
        host.up()
        host.give_flows(federation())

    def serve(self, namespace: str, program: str, port: int) -> None:
        """Run a program in the background until the host ends; wait for its listening port."""
        (self.host.run_directory / f"{namespace}-{port}.py").write_text(program)
        file = f"/run/{namespace}-{port}"
        command = f"ip netns exec {namespace} python {file}.py >{file}.log 2>&1 &"
        self.host.output(command)
        listening = f"ip netns exec {namespace} ss -Hltn 'sport = :{port}'"
        wait_until(lambda: self.host.output(listening) != "")

    def connect(
        self, namespace: str, address: str, source: str = "", port: int = 0, timeout: int = 60
    ) -> str:
        program = CLIENT.format(
            address=address, source=source, port=port, timeout=timeout, bytes=BYTES
        )
        return self.host.output(f"ip netns exec {namespace} python -", stdin=program).strip()

    def drops(self, chain: str, comment: str) -> int:
        """Packets that a rule of the packet filter dropped."""
        listed = self.host.inside(f"nft list chain inet fedsdn {chain}")
        (line,) = [line for line in listed.splitlines() if f'comment "{comment}"' in line]
        counted = re.search(r"counter packets (\d+)", line)
        assert counted is not None
        return int(counted[1])


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "userspace-tso"])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with SiteHost(tso=request.param) as host:
        ground = Ground(host)
        ground.serve("fedsdn", SOCKSIFIER.format(bytes=BYTES), 1081)
        ground.serve("vm", SERVER.format(port=80, bytes=BYTES), 80)
        with handing_in(host):
            yield ground


def test_offloads_are_as_the_datapath_needs_them(ground: Ground) -> None:
    tso = "userspace-tso-enable" in ground.host.output("ovs-vsctl get o . other_config")
    for end in ("ethtool", "ip netns exec fedsdn ethtool"):
        for port in ("socksifier", "server", "wan-up1", "wan-up2"):
            features = ground.host.output(f"{end} --show-features {port}")
            assert f"tx-checksum-ip-generic: {'on' if tso else 'off'}" in features


@pytest.mark.parametrize(
    ("address", "vm"), [("10.2.0.11", "::ffff:10.1.0.11"), ("fd00:2::11", "fd00:1::11")]
)
def test_a_vms_connection_reaches_the_socksifier(ground: Ground, address: str, vm: str) -> None:
    sent, answer = ground.connect("vm", address).split(maxsplit=1)
    client, target, mark, received = json.loads(answer)
    assert client[0] == vm
    assert target == [
        vm.replace("::ffff:10.1.0.11", "::ffff:10.2.0.11") if "." in vm else address,
        80,
    ]
    assert mark == 2
    assert (int(sent), received) == (BYTES, BYTES)


@pytest.mark.parametrize(
    ("vm", "client"), [("10.1.0.11", "10.2.0.11"), ("fd00:1::11", "fd00:2::11")]
)
def test_the_server_reaches_a_vm_from_the_clients_address(
    ground: Ground, vm: str, client: str
) -> None:
    for port in (5555, 5556):
        sent, answer = ground.connect("fedsdn", vm, source=client, port=port).split(maxsplit=1)
        assert json.loads(answer) == [client, port, BYTES]
        assert int(sent) == BYTES


def stray_segment(source: str, destination: str) -> bytes:
    """TCP header (RFC 9293, section 3.1) of an ACK, as if a connection were there."""
    pseudo = ip_address(source).packed + ip_address(destination).packed
    header = struct.Struct("!HHIIBBHHH")
    fields = (4321, 443, 1, 1, 5 << 4, 0x10, 1000)
    summed = pseudo + struct.pack("!II", header.size, 6) + header.pack(*fields, 0, 0)
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    return header.pack(*fields, 0xFFFF - (total % 0xFFFF), 0)


@pytest.mark.parametrize(
    ("vm", "address"), [("10.1.0.11", "10.2.0.11"), ("fd00:1::11", "fd00:2::11")]
)
def test_tcp_of_no_connection_is_not_answered(ground: Ground, vm: str, address: str) -> None:
    """A segment of a connection that nobody here knows goes to both ports: nmap's ping is one."""

    def dropped() -> int:
        return ground.drops("from_tenants", "of no connection")

    before = dropped()
    ground.host.output(
        "ip netns exec vm python -",
        stdin="import socket\n"
        f"family = socket.{'AF_INET6' if ':' in vm else 'AF_INET'}\n"
        "raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)\n"
        f"raw.sendto({stray_segment(vm, address)!r}, ({address!r}, 0))\n",
    )
    wait_until(lambda: dropped() >= before + 2)


def test_what_is_no_federated_connection_is_dropped(ground: Ground) -> None:
    """A VM that speaks to the proxy's own address gets no connection.

    The address is known to it by the MAC of either port: both ask by ARP from it.
    """

    def dropped() -> int:
        outside = ground.drops("socksifier", "not from a VM to a peer's prefix")
        return outside + ground.drops("server", "VMs open no connections here")

    before = dropped()
    assert ground.connect("vm", "10.1.0.2", timeout=2) == "TimeoutError"
    assert dropped() > before


def test_the_uplink_takes_the_socks_port_from_peers_only(ground: Ground) -> None:
    host = ground.host
    host.output(  # in place of the bridge's own check, which drops strangers before us
        f"ovs-ofctl -O OpenFlow13 --names add-flow {BRIDGE} "
        "cookie=1,priority=40000,in_port=up1,actions=output:wan-up1"
    )
    ground.serve("fedsdn", SERVER.format(port=1080, bytes=0), 1080)
    ground.serve("fedsdn", SERVER.format(port=8080, bytes=0), 8080)

    def connect(source: str, port: int, seconds: int) -> int:
        return host.run(
            f'ip netns exec peer python -c "import socket; socket.create_connection('
            f"('192.0.2.1', {port}), {seconds}, ('{source}', 0))\" 2>/run/why"
        ).returncode

    before = ground.drops("from_uplinks", "not from a peer")
    assert connect("192.0.2.2", 1080, 60) == 0
    assert connect("192.0.2.2", 8080, 60) == 1
    assert "ConnectionRefusedError" in host.output("cat /run/why")
    assert ground.drops("from_uplinks", "not from a peer") == before
    for port in (1080, 1081, 8080):
        assert connect("192.0.2.9", port, 2) == 1
        assert "TimeoutError" in host.output("cat /run/why")
    assert ground.drops("from_uplinks", "not from a peer") > before
    host.output(f"ovs-ofctl -O OpenFlow13 del-flows {BRIDGE} cookie=1/-1")


def test_the_hosts_own_stack_stays_silent_on_the_ports(ground: Ground) -> None:
    """What the namespace sends also passes the host's stack, which must not answer for it."""
    links = ground.host.json("ip -json address")
    ports = [link for link in links if link["ifname"] in {"socksifier", "server", "wan-up1"}]
    assert len(ports) == 3
    assert all("NOARP" in link["flags"] and link["addr_info"] == [] for link in ports)
