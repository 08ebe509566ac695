"""Other owners' flows on the bridge, and what deleting many of ours costs the bridge."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from os_ken.ofproto import ofproto_v1_3 as ofproto
from os_ken.ofproto import ofproto_v1_3_parser as parser
from os_ken.ofproto.ofproto_protocol import ProtocolDesc

from fedsdn.config.model import Federation
from fedsdn.inspect.flows.pipeline_document import own_flows
from fedsdn.openflow.wire import WireFlow
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.cookie import origin
from fedsdn.pipeline.declarations import COOKIE_OWNER, Table
from tests.real.site_host import BRIDGE, SiteHost, federation, wait_until

pytestmark = pytest.mark.real

COOKIES = 1000
FLOWS = 10_000
DUMP = f"ovs-ofctl -O OpenFlow13 --names --no-stats dump-flows {BRIDGE}"


@pytest.fixture
def host() -> Iterator[SiteHost]:
    """A host whose bridge has another's controller, too: the first one empties a bridge."""
    with SiteHost() as one:
        one.output(f"ovs-vsctl set-controller {BRIDGE} tcp:127.0.0.1:6999")
        yield one


def start_application(host: SiteHost, wanted: Federation) -> int:
    """Start it, and wait until the bridge has its flows; return its process."""
    command = "osken-manager --config-file /run/fedsdn.conf fedsdn.app >/run/app.log 2>&1 &"
    host.output(f"{command} echo $! >/run/app.pid")
    wait_for_own(host, wanted)
    return int(host.output("cat /run/app.pid"))


def stop(host: SiteHost, application: int) -> None:
    host.output(f"kill {application}")
    wait_until(lambda: host.run(f"kill -0 {application}").returncode != 0)


def own(host: SiteHost) -> list[str]:
    return own_flows(host.output(DUMP).splitlines())


def wait_for_own(host: SiteHost, wanted: Federation) -> None:
    count = len(host.wanted_flows(wanted))
    wait_until(lambda: len(own(host)) == count)


def others(host: SiteHost) -> list[str]:
    """Every flow but the pipeline's, as the bridge prints it."""
    ours = set(own(host))
    lines = map(str.strip, host.output(DUMP).splitlines())
    return sorted(line for line in lines if line.startswith("cookie=") and line not in ours)


def cookies() -> Iterator[int]:
    """Draw some from all 64 bits, some that begin like ours, and some but a bit from ours."""
    draw = random.Random(17)  # noqa: S311 -- to be repeated, not secret
    flows = pipeline_flows(federation(), "a")
    for number in range(COOKIES):
        cookie = (
            draw.getrandbits(64),
            COOKIE_OWNER | draw.getrandbits(48),
            draw.choice(flows).cookie ^ 1 << draw.randrange(64),
        )[number % 3]
        assert origin(cookie) is None
        yield cookie


def test_flows_with_random_cookies_stay_as_they_are(host: SiteHost) -> None:
    tables = (0, 3, 60, 100, 115, 135)
    flows = [
        f"cookie={cookie:#x},table={tables[number % len(tables)]},priority=7,"
        f"ip,nw_dst=198.18.{number >> 8}.{number & 255},actions=drop"
        for number, cookie in enumerate(cookies())
    ]
    host.output(f"ovs-ofctl -O OpenFlow13 add-flows {BRIDGE} -", stdin="\n".join(flows))
    before = others(host)
    assert len(before) == COOKIES
    host.up()
    assert others(host) == before, "after site up"
    application = start_application(host, federation())
    assert others(host) == before, "after the application's start"
    less = replace(
        federation(),
        sites=tuple(replace(site, prefixes=site.prefixes[:1]) for site in federation().sites),
    )
    host.write(less)
    host.output(f"kill -HUP {application}")
    wait_for_own(host, less)
    assert others(host) == before, "after a reload"
    stop(host, application)
    host.down()
    assert own(host) == []
    assert others(host) == before, "after site down"


def switch_seconds(host: SiteHost) -> float:
    """Processor time that ovs-vswitchd has used."""
    pid = (host.run_directory / "openvswitch/ovs-vswitchd.pid").read_text().strip()
    tasks = host.output(f"cat /proc/{pid}/task/*/schedstat").splitlines()
    return sum(int(line.split()[0]) for line in tasks) / 1e9


def deletion_mask() -> int:
    """Return the cookie's mask in what the application sends to delete a flow."""
    flow = WireFlow(Table.UPLINK, 1, b"", cookie=1, instructions=b"")
    mod = parser.OFPFlowMod.parser(
        ProtocolDesc(version=ofproto.OFP_VERSION),
        *(ofproto.OFP_VERSION, ofproto.OFPT_FLOW_MOD, 0, 0),
        bytearray(flow.delete(0)),
    )
    assert mod.command == ofproto.OFPFC_DELETE_STRICT
    mask: int = mod.cookie_mask
    return mask


def test_deleting_many_flows_costs_no_more_than_their_number(host: SiteHost) -> None:
    """Deletions that carry the whole cookie cost the square of it: each walks all that have it."""
    [cookie, *_] = [flow.cookie for flow in pipeline_flows(federation(), "a")]
    flows = [
        f"table=0,priority=20000,tcp,nw_dst=198.18.{n >> 8}.{n & 255},cookie={cookie:#x}"
        for n in range(FLOWS)
    ]
    ofctl = f"ovs-ofctl -O OpenFlow13 --bundle --strict add-flows {BRIDGE} -"
    spent = {}
    for mask in (deletion_mask(), -1):
        host.output(ofctl, stdin="".join(f"{flow},actions=drop\n" for flow in flows))
        before = switch_seconds(host)
        host.output(ofctl, stdin="".join(f"delete_strict {flow}/{mask}\n" for flow in flows))
        spent[mask] = switch_seconds(host) - before
        assert "198.18" not in host.output(DUMP)
    assert spent[deletion_mask()] < spent[-1] / 3
