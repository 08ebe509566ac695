"""Programs that people use over datagrams, unchanged."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from fedsdn.bench.behaviour.case import Case, Difference, Ends, both
from fedsdn.bench.behaviour.exchange import AGAIN_SECONDS, TIMES, both_ways, serving
from fedsdn.bench.behaviour.sip import AUDIO_PORT, SCENARIO, SIP_PORT
from fedsdn.bench.guests import Guest
from fedsdn.lab.wait import wait_until
from fedsdn.shell import last_words

_LIMIT_SECONDS = 40.0
_UNTIL_ANSWERED = (f"+tries={TIMES}", f"+time={AGAIN_SECONDS:g}")
_TEXT = ",".join(letter * 250 for letter in "abcdefghijkl")
_QUIC_PORT = 15010
_QUIC_BYTES = 300_000
_IPERF_PORT = 5201
_STRATUM = 5
_TUNNEL_PORT = 51821
_TUNNEL_ADDRESSES = ("192.168.77.1", "192.168.77.2")


def _ping(ends: Ends, size: int) -> str:
    said = ends.client.shell.run(
        *("ping", "-n", "-c", "4", "-i", "0.3", "-W", "5", "-s", str(size), ends.address),
        timeout=_LIMIT_SECONDS,
    )
    return pinged(said.stdout)


def pinged(said: str) -> str:
    """Judge what ping(8) has printed: one answer is enough, as packets may be lost."""
    answers = re.search(r"(\d+) received", said)
    if answers is None or answers[1] == "0":
        return "no answer"
    return "answers, some twice" if "DUP!" in said else "answers"


def _traceroute(ends: Ends, *, icmp: bool) -> str:
    said = ends.client.shell.output(
        *("traceroute", f"-{ends.family}", "-n", "-N", "1", "-w", "3", "-m", "6"),
        *(("--icmp",) if icmp else ()),
        ends.address,
        timeout=_LIMIT_SECONDS,
    )
    own, its = ends.proxies
    return hops(said, {own: "own proxy", its: "its proxy", ends.address: "server"})


def hops(said: str, names: Mapping[str, str]) -> str:
    """Name what traceroute(8) has printed, a line a hop; others have their addresses."""
    found = (
        dict.fromkeys(names.get(word, word) for word in line.split() if _is_address(word))
        for line in said.splitlines()[1:]
    )
    return ", ".join(" or ".join(hop) or "?" for hop in found)


def _is_address(word: str) -> bool:
    try:
        ip_address(word)
    except ValueError:
        return False
    return True


def _dns(ends: Ends) -> str:
    """Ask for an address, and for more text than a packet holds."""
    dnsmasq = (
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"),
        *("--bind-interfaces", f"--listen-address={ends.address}", "--user=root", "--pid-file="),
        *("--edns-packet-max=4096", "--address=/vm.test/192.0.2.77"),
        f"--txt-record=text.test,{_TEXT}",
    )
    dig = ("dig", f"@{ends.address}", "+notcp", "+ignore", "+short", *_UNTIL_ANSWERED)
    with serving(ends.server, 53, *dnsmasq):
        address, text = (
            _answer(ends.client.shell.run(*dig, *question, timeout=_LIMIT_SECONDS).stdout)
            for question in (("vm.test", "A"), ("+bufsize=4096", "text.test", "TXT"))
        )
    right, whole = address == "192.0.2.77", text == _TEXT.replace(",", "")
    return f"{'address' if right else 'others'}, {'whole text' if whole else 'others'}"


def _answer(said: str) -> str:
    """Return what dig(1) was answered, without what it says of tries before."""
    lines = (line for line in said.splitlines() if not line.startswith(";"))
    return "".join(lines).replace('" "', "").strip('"')


def _time(ends: Ends) -> str:
    """Ask for the time; neither end touches this machine's clock."""
    chronyd = ("chronyd", "-u", "root")
    alone = ("cmdport 0", "bindcmdaddress /")
    with (
        _pid_file(ends.server) as server_file,
        _pid_file(ends.client) as client_file,
        serving(
            *(ends.server, 123, *chronyd, "-x", "-d", f"local stratum {_STRATUM}"),
            *("allow all", f"bindaddress {ends.address}", server_file, *alone),
        ),
    ):
        said = ends.client.shell.run(
            *(*chronyd, "-Q", "-t", f"{_LIMIT_SECONDS - 10:g}", client_file, *alone),
            f"server {ends.address} iburst maxsamples 1",
            timeout=_LIMIT_SECONDS,
        )
    return "the time" if "System clock wrong by" in said.stderr else "no time"


@contextmanager
def _pid_file(vm: Guest) -> Iterator[str]:
    """Give chronyd a name of its own for its file: it writes one always."""
    with tempfile.TemporaryDirectory() as directory:
        yield f"pidfile {directory}/{vm.vm.name}.pid"


def _iperf3(ends: Ends) -> str:
    """Send a stream each way at a rate that the lab carries whatever else runs."""
    with serving(ends.server, _IPERF_PORT, "iperf3", "--server"):
        said = ends.client.shell.run(
            *("iperf3", "--client", ends.address, "--udp", "--bidir", "--time", "1", "--json"),
            *("--bitrate", "500k", "--length", "1000", "--connect-timeout", "5000"),
            timeout=_LIMIT_SECONDS,
        )
    report = json.loads(said.stdout)
    if "error" in report:
        return str(report["error"])
    ways = [report["end"]["sum"], report["end"]["sum_bidir_reverse"]]
    return "both ways" if all(way["lost_percent"] < 50 for way in ways) else "much lost"


def _quic(ends: Ends) -> str:
    program = "fedsdn.bench.quic"
    arguments = (str(_QUIC_PORT), ends.address)
    with (
        ends.server.shell.started(
            *ends.server.shell.module(program), "serve", *arguments
        ) as server,
    ):
        if not server.line():
            server.finish()
        return ends.client.shell.output(
            *(*ends.client.shell.module(program), "ask", *arguments, str(_QUIC_BYTES)),
            timeout=_LIMIT_SECONDS,
        ).strip()


def _call(ends: Ends) -> str:
    """Call, talk for a while, and hang up; the server sends back what it hears."""
    milliseconds = round(ends.lengths.called * 1000)
    heard = f"udp sport {AUDIO_PORT} udp dport {AUDIO_PORT}"
    host = f"[{ends.address}]" if ends.family == 6 else ends.address
    own = ends.client.address(ends.family)
    answering = ("sipp", "-sn", "uas", "-i", ends.address, "-mi", ends.address, "-rtp_echo")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        audio, scenario = Path(directory, "audio"), Path(directory, "call.xml")
        audio.write_bytes(bytes(range(256)) * 50)
        scenario.write_text(SCENARIO.format(audio=audio))
        stack.enter_context(serving(ends.server, SIP_PORT, *answering, "-nostdin"))
        counted = stack.enter_context(ends.client.counting(heard))
        said = ends.client.shell.run(
            *("sipp", "-sf", str(scenario), "-i", own, "-mi", own, "-m", "1", "-nostdin"),
            *("-d", str(milliseconds), "-timeout", f"{ends.lengths.called + 30:g}"),
            f"{host}:{SIP_PORT}",
            timeout=ends.lengths.called + _LIMIT_SECONDS,
        )
        voice = counted.packets
    if said.returncode:
        return f"no call: {last_words(said.stderr)}"
    return "a call, " + ("heard" if voice > 10 * ends.lengths.called else "hardly heard")


def _wireguard(ends: Ends) -> str:
    """Have a tunnel between the VMs, and packets in it as large as it takes by itself."""
    vms = (ends.client, ends.server)
    with _tunnel(vms[0]) as one, _tunnel(vms[1]) as other:
        keys = [vm.run("wg", "genkey").strip() for vm in vms]
        shown = [ends.client.shell.run("wg", "pubkey", text=key).stdout.strip() for key in keys]
        for number, name in enumerate((one, other)):
            peer = 1 - number
            address = vms[peer].address(ends.family)
            host = f"[{address}]" if ends.family == 6 else address
            settings = (
                f"[Interface]\nPrivateKey={keys[number]}\nListenPort={_TUNNEL_PORT}\n"
                f"[Peer]\nPublicKey={shown[peer]}\nEndpoint={host}:{_TUNNEL_PORT}\n"
                f"AllowedIPs={_TUNNEL_ADDRESSES[peer]}\n"
            )
            _configure(vms[number], name, settings, f"{_TUNNEL_ADDRESSES[number]}/24")
        ping = ("ping", "-n", "-c", "4", "-i", "0.3", "-W", "5", _TUNNEL_ADDRESSES[1])
        said = [
            ends.client.shell.run(*ping, "-s", size, timeout=_LIMIT_SECONDS).stdout
            for size in ("56", "1392")
        ]
    return ", ".join(map(pinged, said))


def _configure(vm: Guest, name: str, settings: str, address: str) -> None:
    """Configure an interface as soon as it is there."""
    command = ("wg", "setconf", name, "/dev/stdin")
    wait_until(
        lambda: not vm.shell.run(*command, text=settings).returncode,
        _LIMIT_SECONDS,
        lambda: f"{vm.shell.name}: wireguard-go takes no settings",
    )
    vm.run("ip", "address", "add", address, "dev", name)
    vm.run("ip", "link", "set", name, "up")


@contextmanager
def _tunnel(vm: Guest) -> Iterator[str]:
    """Have an interface of wireguard-go at a VM: the host's other VMs share its directory."""
    name = f"in-{vm.vm.name}"
    with vm.shell.started("wireguard-go", "--foreground", name):
        try:
            yield name
        finally:
            vm.shell.run("ip", "link", "del", name)


_ROUTED = Difference(
    "own proxy, its proxy, server",
    "what is not TCP is routed: the proxies of both sites are a hop each",
)

CASES = (
    Case("ping", "from either", both_ways(partial(_ping, size=56)), both("answers"), seconds=3),
    Case("ping, 1,400 bytes", "from either", both_ways(partial(_ping, size=1400)),
         both("answers"), seconds=3),
    Case("ping, 8,000 bytes", "in fragments", both_ways(partial(_ping, size=8000)),
         both("answers"), seconds=3),
    Case("traceroute", "from either", both_ways(partial(_traceroute, icmp=False)), both("server"),
         _ROUTED, seconds=3),
    Case("traceroute -I", "from either", both_ways(partial(_traceroute, icmp=True)),
         both("server"), _ROUTED, seconds=3),
    Case("dig", "an address, and 3,000 bytes of text, from dnsmasq over UDP", both_ways(_dns),
         both("address, whole text"), seconds=3),
    Case("chronyd", "the time over NTP", both_ways(_time), both("the time"), seconds=3),
    Case("iperf3 --udp", "both ways at once", both_ways(_iperf3), both("both ways"), seconds=5),
    Case("QUIC", "a stream there and back (aioquic)", both_ways(_quic), both("same"), seconds=5),
    Case("SIP", "a telephone call over UDP, with its audio (sipp)", both_ways(_call),
         both("a call, heard"), seconds=60),
    Case("WireGuard", "a tunnel of the VMs' own, with packets that fill it", both_ways(_wireguard),
         both("answers, answers"), seconds=8),
)  # fmt: skip
