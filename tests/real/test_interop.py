"""Other people's proxies: curl and redsocks ask our server, ours asks microsocks and dante.

Site a has our proxy; in place of b's, these programs run in b's namespace, on MPTCP by mptcpize(8).
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from fedsdn.pipeline.declarations import PROXY_NAMESPACE, SOCKSIFIER_PORT
from fedsdn.proxy.socks import protocol as socks
from fedsdn.socket_address import SocketAddress
from tests.real.proxy_connections import Net, connection, noise
from tests.real.proxy_net import LIMIT_S, SiteOfNet, proxy_net
from tests.real.site_host import wait_until
from tests.unit.federations import two_sites, with_foreign_proxy

pytestmark = pytest.mark.real

FEDERATION = with_foreign_proxy(two_sites(), "b")
A_PROXY = {4: "10.1.0.2", 6: "fd00:1::2"}
B_PROXY = {4: "10.2.0.2", 6: "fd00:2::2"}
A_UPLINK = {4: "192.0.2.1", 6: "[2001:db8:2::1]"}
B_UPLINK = {4: "192.0.2.2", 6: "2001:db8:2::2"}

PLAIN_HOST = """
nft delete table inet fedsdn
sysctl -q net.mptcp.pm_type=0
ip mptcp limits set subflows 8 add_addr_accepted 8
ip route replace 10.2.0.0/24 dev socksifier src 10.2.0.2
ip route replace fd00:2::/64 dev socksifier src fd00:2::2
"""
CURL_PROXY_ERROR = 97
MICROSOCKS = "microsocks -i :: -p 1080"
DANTE = "danted -f /run/danted.conf"
DANTE_CONF = f"""
logoutput: stderr
internal: 192.0.2.2 port = 1080
internal: 2001:db8:2::2 port = 1080
external: {SOCKSIFIER_PORT}
clientmethod: none
socksmethod: none
user.privileged: root
user.unprivileged: nobody
client pass {{ from: 0/0 to: 0/0 }}
socks pass {{ from: 0/0 to: 0/0 }}
"""
REDSOCKS = "redsocks -c /run/redsocks.conf"
REDSOCKS_CONF = """
base { log_debug = off; log_info = off; log = stderr; daemon = off; redirector = iptables; }
redsocks { local_ip = 0.0.0.0; local_port = 12345; ip = 192.0.2.1; port = 1080; type = socks5; }
"""
REDIRECT = f"""
table ip capture {{
  chain arriving {{
    type nat hook prerouting priority -100
    iifname "{SOCKSIFIER_PORT}" meta l4proto tcp redirect to :12345
  }}
}}
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxy_net(FEDERATION) as (near, far):
        for command in PLAIN_HOST.strip().splitlines():
            far.inside(command)
        for name, text in (
            ("danted.conf", DANTE_CONF),
            ("redsocks.conf", REDSOCKS_CONF),
            ("redirect.nft", REDIRECT),
        ):
            (far.run_directory / name).write_text(text)
        near.start_proxy()
        yield near, far


@contextmanager
def running(host: SiteOfNet, command: str, port: int) -> Iterator[None]:
    """A program in the proxy's namespace, on MPTCP, from when it listens to the block's end."""
    run = f"exec ip netns exec {PROXY_NAMESPACE} mptcpize run {command}"
    process = subprocess.Popen(
        host.command("sh", "-c", f"echo $$ >/run/{port}.pid; {run}"),
        env=host.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def listens() -> bool:
        assert process.poll() is None, process.communicate()
        return bool(host.inside(f"ss -Hltn sport = :{port}"))

    try:
        wait_until(listens)
        yield
    finally:
        host.output(f"kill $(cat /run/{port}.pid)")
        process.communicate(timeout=LIMIT_S)


@pytest.fixture(scope="module", params=[MICROSOCKS, DANTE], ids=["microsocks", "dante"])
def served(request: pytest.FixtureRequest, net: Net) -> Iterator[Net]:
    """Both sites, b's with a server of others."""
    with running(net[1], request.param, 1080):
        yield net


def exchange(client: socket.socket, server: socket.socket) -> None:
    """Send both ways at once. The ends of streams come last: some proxies end at the first."""
    upward, downward = noise(1), noise(2)
    with ThreadPoolExecutor() as threads:
        for sock, data in ((client, upward), (server, downward)):
            threads.submit(sock.sendall, data)
        at_server = threads.submit(receive, server, len(upward))
        at_client = threads.submit(receive, client, len(downward))
        assert at_server.result() == upward
        assert at_client.result() == downward


def receive(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        received += sock.recv(size - len(received))
    return bytes(received)


def test_data_both_ways_through_anothers_server(served: Net, family: int) -> None:
    near, far = served
    with (
        near.counts(outbound=1, outbound_failed=0, ended_fallback=0),
        connection(near, far, family) as (client, server),
    ):
        assert server.getpeername()[0] == B_PROXY[family]
        exchange(client, server)


def test_a_connection_through_anothers_server_has_both_uplinks(served: Net) -> None:
    near, far = served
    with connection(near, far, 4) as (client, server):
        client.sendall(b"?")
        assert server.recv(1) == b"?"
        wait_until(lambda: len(near.inside("ss -HtnO dport = :1080").splitlines()) == 2)


def test_a_refusal_by_anothers_server_is_one(served: Net, family: int) -> None:
    near, far = served
    address = far.addresses[family]
    with far.vm.listen(address) as closed:
        port = closed.getsockname()[1]
    with (
        near.counts(outbound=1, outbound_failed=1, ended_refused=1),
        pytest.raises(ConnectionRefusedError),
    ):
        near.vm.connect(address, port)


def fetch(net: Net, family: int, option: str = "--socks5", url: str = "") -> tuple[str, str]:
    """Have curl fetch from a's VM; return what it printed, and whom the VM saw."""
    near, far = net
    with near.vm.listen(near.addresses[family]) as listener, ThreadPoolExecutor() as threads:
        address, port = listener.getsockname()[:2]
        host = f"[{address}]" if family == 6 else address
        seen = threads.submit(answer_one, listener)
        return far.inside(f"{curl(family, option)} http://{host}:{port}/"), seen.result()


def answer_one(listener: socket.socket) -> str:
    """Serve one request as a web server does; return whose it was."""
    server, name = listener.accept()
    with server:
        server.settimeout(LIMIT_S)
        server.recv(1 << 16)
        server.sendall(b"HTTP/1.0 200 OK\r\n\r\nfrom the VM")
    return str(name[0])


def curl(family: int, option: str = "--socks5") -> str:
    return (
        f"mptcpize run curl --silent --show-error --max-time {LIMIT_S:g} "
        f"--interface {B_UPLINK[family]} {option} {A_UPLINK[family]}:1080"
    )


def test_curl_fetches_through_our_server(net: Net, family: int) -> None:
    with net[0].counts(inbound=1, ended_fallback=0):
        assert fetch(net, family) == ("from the VM", A_PROXY[family])


def test_a_program_without_multipath_tcp_is_served(net: Net) -> None:
    near, far = net
    with (
        near.counts(inbound=1, ended_fallback=0),
        near.vm.listen(near.addresses[4]) as listener,
        ThreadPoolExecutor() as threads,
    ):
        seen = threads.submit(answer_one, listener)
        url = "http://{}:{}/".format(*listener.getsockname())
        assert far.inside(f"{curl(4).removeprefix('mptcpize run ')} {url}") == "from the VM"
        assert seen.result() == A_PROXY[4]


@pytest.mark.parametrize(
    ("option", "url", "counter", "said"),
    [
        ("--socks5", "http://10.1.0.2/", "ended_no_vm", "(2)"),
        ("--socks5", "http://10.2.0.11/", "ended_foreign_destination", "(2)"),
        ("--socks5", "http://192.0.2.1:1080/", "ended_foreign_destination", "(2)"),
        ("--socks5-hostname", "http://a-vm.example/", "ended_garbled", "(8)"),
        ("--socks5", "http://10.1.0.11:9/", "ended_refused", "(5)"),
    ],
    ids=["our proxy's address", "back to the peer", "our uplink", "a name", "a closed port"],
)
def test_curl_is_told_why_not(net: Net, option: str, url: str, counter: str, said: str) -> None:
    near, far = net
    with near.counts(**{counter: 1}):
        done = far.run(f"ip netns exec {PROXY_NAMESPACE} {curl(4, option)} {url}")
    assert done.returncode == CURL_PROXY_ERROR
    assert said in done.stderr


def test_a_vm_reaches_ours_through_redsocks(net: Net) -> None:
    near, far = net
    with running(far, REDSOCKS, 12345):
        far.inside("nft -f /run/redirect.nft")
        try:
            with (
                near.counts(inbound=1, ended_fallback=0),
                connection(far, near, 4) as (client, server),
            ):
                assert server.getpeername()[0] == A_PROXY[4]
                exchange(client, server)
        finally:
            far.inside("nft delete table ip capture")


def test_a_connection_by_anothers_client_has_both_uplinks(net: Net) -> None:
    near, far = net
    with (
        near.vm.listen(near.addresses[6]) as listener,
        far.proxy.connect(A_UPLINK[6].strip("[]"), 1080, protocol=socket.IPPROTO_MPTCP) as client,
    ):
        client.sendall(socks.PLAIN_GREETING)
        assert receive(client, len(socks.PLAIN_SELECTION)) == socks.PLAIN_SELECTION
        address, port = listener.getsockname()[:2]
        client.sendall(socks.encode_connect(SocketAddress(ip_address(address), port)))
        server, _ = listener.accept()
        with server:
            wait_until(lambda: len(near.inside("ss -HtnO sport = :1080").splitlines()) == 2)


def test_it_is_said_that_sources_are_not_restored(net: Net) -> None:
    log = net[0].log
    assert log.count("VMs here see connections from b come from the proxy (10.1.0.2, ") == 1
    assert log.count("VMs of b see connections from here come from their own proxy") == 1
    assert "Traceback" not in log
