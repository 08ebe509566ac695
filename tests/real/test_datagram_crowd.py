"""The bridge's flows are the same ones, however many flows of datagrams there are."""

from __future__ import annotations

import pytest

from fedsdn.bench.behaviour.case import FULL, Ends
from fedsdn.bench.behaviour.datagrams import flows
from fedsdn.bench.guests import guest_of
from fedsdn.config.model import Family
from fedsdn.lab.lab import Lab

pytestmark = pytest.mark.real

_TRACKED = "/proc/sys/net/netfilter/nf_conntrack_count"


def test_ten_thousand_flows_need_no_flow_of_the_bridges(lab: Lab, family: Family) -> None:
    near, far = lab.topology.sites
    client, server = (guest_of(lab, site.name, site.vms[0]) for site in (near, far))
    before = _flows(lab)
    assert flows(Ends(client, server, server, (), family, FULL)) == "all"
    for site in (near, far):
        # Each at least half a minute: a machine that is so slow has forgotten some.
        tracked = int(lab.host(site.name).run("ip", "netns", "exec", "fedsdn", "cat", _TRACKED))
        assert tracked > FULL.flows // 2
    assert _flows(lab) == before


def _flows(lab: Lab) -> dict[str, list[str]]:
    """Return the flows without what they have counted, by site."""
    return {
        site.name: sorted(
            line.partition(" table=")[2]
            for line in lab.host(site.name)
            .run("ovs-ofctl", "-O", "OpenFlow13", "--no-stats", "dump-flows", "br-provider")
            .splitlines()
        )
        for site in lab.topology.sites
    }
