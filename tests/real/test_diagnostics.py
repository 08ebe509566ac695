"""Connections, traces, status and bundles, on two whole sites with real connections."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from typing import Any

import pytest

from fedsdn.config.loader import dump_federation, load_federation
from fedsdn.config.rules import Rule
from fedsdn.lab.lab import Lab
from fedsdn.lab.wait import wait_until
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from tests.real.test_proxy_lab import LIMIT_SECONDS, Vm, connections

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("new_proxies")]

FEDSDN = (sys.executable, "-m", "fedsdn.cli.main")
MANY = 20
GROUPS = {4: "239.1.1.1", 6: "[ff05::1:3]"}


def listed(lab: Lab, site: str, port: int) -> list[dict[str, Any]]:
    """The connections to a port, as a site lists them."""
    views = json.loads(lab.host(site).run(*FEDSDN, "connections", "--json"))
    return [view for view in views if (view["destination"] or [0, 0])[1] == port]


def whole(views: list[dict[str, Any]], count: int) -> bool:
    shares = [{share["uplink"] for share in view["shares"]} for view in views]
    return (
        len(views) == count
        and not any(view["absent"] for view in views)
        and all(one == {"up1", "up2"} for one in shares)
    )


def wait_for_whole(lab: Lab, site: str, port: int, count: int = 1) -> list[dict[str, Any]]:
    """Wait until a site lists so many connections to a port in all views, over both uplinks."""
    views: list[dict[str, Any]] = []

    def are_whole() -> bool:
        views[:] = listed(lab, site, port)
        return whole(views, count)

    wait_until(are_whole, LIMIT_SECONDS, lambda: f"{views}")
    return views


def test_both_sites_list_every_connection_in_all_views(lab: Lab, family: int) -> None:
    near, far = Vm(lab, "a", "vm1", family), Vm(lab, "b", "vm2", family)
    with connections(near, far, count=MANY) as pairs:
        port = pairs[0][1].getsockname()[1]
        names = {tuple(client.getsockname()[:2]) for client, _ in pairs}
        for site, direction in (("a", "outbound"), ("b", "inbound")):
            views = wait_for_whole(lab, site, port, MANY)
            assert {tuple(view["client"]) for view in views} == names
            assert {view["direction"] for view in views} == {direction}
            assert all(view["multipath"] for view in views)
    for site in "ab":
        wait_until(
            lambda site=site: not listed(lab, site, port),  # type: ignore[misc]
            LIMIT_SECONDS,
            lambda: "connections that have ended are still listed",
        )


def test_what_conntrack_has_lost_is_marked(lab: Lab) -> None:
    near, far = Vm(lab, "a", "vm1", 4), Vm(lab, "b", "vm2", 4)
    with connections(near, far) as [(_, server)]:
        port = server.getsockname()[1]
        wait_for_whole(lab, "a", port)
        near.host.run("ovs-appctl", "dpctl/flush-conntrack")
        wait_until(
            lambda: [view["absent"] for view in listed(lab, "a", port)] == [["conntrack"]],
            LIMIT_SECONDS,
            lambda: f"{listed(lab, 'a', port)}",
        )


def traced(lab: Lab, *words: str) -> list[dict[str, Any]]:
    command = [*FEDSDN, "trace", "--lab", lab.name, "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_an_open_connection_is_traced_at_both_sites(lab: Lab, family: int) -> None:
    near, far = Vm(lab, "a", "vm1", family), Vm(lab, "b", "vm2", family)
    with connections(near, far) as [(client, server)]:
        client.sendall(b"?")
        assert server.recv(1) == b"?"
        port = server.getsockname()[1]
        to = f"[{far.address}]:{port}" if family == 6 else f"{far.address}:{port}"
        for site in "ab":
            wait_for_whole(lab, site, port)
        out, arrived = traced(lab, near.address, to)
        assert (out["conntrack"], out["mark"]) == ("ESTABLISHED", "OUTBOUND [0x1]")
        assert (out["in_port"], out["ports"]) == ("vm1", ["socksifier"])
        assert (arrived["in_port"], arrived["ports"]) == ("server", ["vm2"])
        assert {share["uplink"] for share in out["connection"]["shares"]} == {"up1", "up2"}
        back, home = traced(lab, near.address, to, "--reply")
        assert (back["site"], back["in_port"], back["ports"]) == ("b", "vm2", ["server"])
        assert (home["site"], home["in_port"], home["ports"]) == ("a", "socksifier", ["vm1"])


def test_a_connection_that_is_not_open_is_traced_as_new(lab: Lab) -> None:
    near, far = Vm(lab, "a", "vm1", 4), Vm(lab, "b", "vm2", 4)
    out, _ = traced(lab, near.address, f"{far.address}:9")
    assert (out["conntrack"], out["ports"]) == (None, ["socksifier"])
    assert "is committed to conntrack" in str(out["steps"])
    assert "OUTBOUND" not in str(out["steps"]), "that is for the socksifier's answer to say"
    [stray] = traced(lab, near.address, "203.0.113.9:9")
    assert stray["peer"] is None
    assert stray["steps"][-1]["why"] == "what is not ours stays as it was"


def test_a_datagram_is_traced_to_the_path_that_the_kernel_has_for_it(lab: Lab, family: int) -> None:
    near, far = Vm(lab, "a", "vm1", family), Vm(lab, "b", "vm2", family)
    command = [*lab.prefix("a/vm1"), "ping", "-c", "1", "-W", "1", far.address]
    wait_until(
        lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0,
        LIMIT_SECONDS,
        lambda: "no ping crosses",
    )
    out, arrived = traced(lab, near.address, far.address, "--protocol", "icmp")
    assert (out["in_port"], out["ports"]) == ("vm1", ["router"])
    assert (arrived["in_port"], arrived["ports"]) == ("router", ["vm2"])
    for answer in (out, arrived):
        assert answer["routed"]["flow"]["answered"]
    assert out["routed"]["path"] in {"up1 to b/up1", "up2 to b/up2"}
    back, home = traced(lab, near.address, far.address, "--protocol", "icmp", "--reply")
    assert (back["in_port"], back["ports"]) == ("vm2", ["router"])
    assert (home["in_port"], home["ports"]) == ("router", ["vm1"])
    text = lab.host("a").run(
        *FEDSDN, "trace", near.address, f"{GROUPS[family]}:5", "--protocol", "udp"
    )
    assert "is a multicast address: no VM has it" in text


def test_what_no_rule_allows_is_traced_as_refused(lab: Lab) -> None:
    host = lab.host("a")
    near, far = Vm(lab, "a", "vm1", 4).address, Vm(lab, "b", "vm2", 4).address
    federation = load_federation(host.run_directory / "fedsdn/federation.yaml")
    ruled = host.run_directory / "fedsdn/ruled.yaml"
    rules = (Rule(("a",), ("b",), ports=(range(80, 81),)),)
    ruled.write_text(dump_federation(replace(federation, allow=rules)))
    command = (*FEDSDN, "trace", "--federation", "/run/fedsdn/ruled.yaml", near)
    refused = host.run(*command, f"{far}:9")
    assert "federation file: refused: no rule allows tcp from" in refused
    assert "the nearest is allow[0], from a to b, port 80 (/run/fedsdn/ruled.yaml:" in refused
    assert "tells the VM that it is administratively prohibited" in refused
    allowed = json.loads(host.run(*command, f"{far}:80", "--json"))
    assert allowed["federation_file"]["rule"]["name"] == "allow[0]"


def test_a_site_that_is_well_says_so_on_one_screen(lab: Lab) -> None:
    wait_until(lambda: well(lab), LIMIT_SECONDS, lambda: lab.host("a").run(*FEDSDN, "status"))
    answer = json.loads(lab.host("a").run(*FEDSDN, "status", "--json"))
    assert [part["name"] for part in answer["parts"] if part["fix"]] == []
    text = lab.host("a").run(*FEDSDN, "status")
    assert "✓ flows        140 of 140" in text
    assert "b (2 of 2 paths" in text


def test_status_asks_ovs_vswitchd_and_not_only_the_database(lab: Lab) -> None:
    host = lab.host("a")
    number = host.run("pgrep", "--oldest", "ovs-vswitchd").strip()
    host.run("kill", "-STOP", number)
    try:
        command = [*lab.prefix("a"), *FEDSDN, "status", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    finally:
        host.run("kill", "-CONT", number)
    parts = {part["name"]: part for part in json.loads(done.stdout)["parts"]}
    for name in ("bridge", "flows", "uplinks"):
        assert parts[name]["text"] == "ovs-vswitchd does not answer"
        assert parts[name]["fix"].startswith("start openvswitch-switch")
    wait_until(lambda: well(lab), LIMIT_SECONDS, lambda: "site a does not recover")


def well(lab: Lab) -> bool:
    command = [*lab.prefix("a"), *FEDSDN, "status"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_ping_is_a_flow_with_its_path(lab: Lab) -> None:
    """At both sites, with what the other one sent; and its bytes are the path's in ``uplinks``."""
    lab.host("a").run("ping", "-c", "2", "-i", "0.2", "-s", "900", "10.2.0.12", vm="vm2")
    sides = {}
    for site, way in (("a", "outbound"), ("b", "inbound")):
        host = lab.host(site)
        [flow] = [
            flow
            for flow in json.loads(host.run(*FEDSDN, "datagrams", "--json"))
            if (flow["source"], flow["destination"]) == ("10.1.0.12", "10.2.0.12")
        ]
        assert (flow["direction"], flow["protocol"], flow["answered"]) == (way, "icmp", True)
        assert min(flow["sent"], flow["received"]) > 900
        assert flow["age"] < LIMIT_SECONDS
        sides[site] = flow
        paths = json.loads(host.run(*FEDSDN, "uplinks", "--json"))["paths"]
        [used] = [
            path
            for path in paths
            if flow["sent_by"] == {name: path[name] for name in ("uplink", "peer", "peer_uplink")}
        ]
        assert used["datagrams_sent"] > flow["sent"]
    assert sides["a"]["sent_by"]["uplink"] == sides["b"]["received_by"]["peer_uplink"]


def bundled(lab: Lab) -> dict[str, str]:
    """The files of a bundle of site a."""
    host = lab.host("a")
    host.run(*FEDSDN, "support-bundle", "/run/bundle.tar.gz")
    texts = {}
    with tarfile.open(host.run_directory / "bundle.tar.gz") as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            texts[member.name.partition("/")[2]] = content.read().decode()
    return texts


def test_a_bundle_has_everything_but_the_key(lab: Lab) -> None:
    """Of a site that is well: on a busy machine a path may be down for a moment."""
    host = lab.host("a")
    texts: dict[str, str] = {}
    wait_until(
        lambda: texts.update(bundled(lab)) or "0 failed" in texts["verify.txt"],
        2 * LIMIT_SECONDS,
        lambda: texts["verify.txt"],
    )
    assert "140 flows" in texts["flows.txt"]
    assert "the last " in texts["connections-ended.txt"]
    assert isinstance(json.loads(texts["connections-ended.json"]), list)
    assert "nw_dst=10.2.0.0/24" in texts["bridge/dump-flows.txt"]
    directory = host.run_directory / "fedsdn" / "identity"
    secrets = [file.read_text().splitlines()[1] for file in directory.glob("*.key")]
    secrets += host.run("wg", "show", "all", "private-key", vm=PROXY_NAMESPACE).split()[1:2]
    assert len(secrets) == 4
    assert texts["namespace/tunnels.txt"].count("private key: (hidden)") == 2
    assert [name for name, text in texts.items() if any(key in text for key in secrets)] == []
    assert [name for name, text in texts.items() if "PRIVATE" in text] == []
    assert [name for name, text in texts.items() if "Traceback" in text] == []


def test_without_an_application_the_command_says_so(lab: Lab) -> None:
    """Asked at a host that runs nothing: this one."""
    federation = lab.host("a").run_directory / "fedsdn/federation.yaml"
    options = ["--site", "a", "--federation", str(federation)]
    for command in ("connections", "datagrams", "status", "uplinks"):
        done = subprocess.run(
            ["unshare", "--net", *FEDSDN, command, *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) <= 1
