"""What a trace is asked, what the datapath prints, and how it is told."""

from __future__ import annotations

from functools import partial
from ipaddress import ip_address

import pytest

from fedsdn.channel.connection import Direction
from fedsdn.errors import FedsdnError
from fedsdn.inspect.trace.explanation import outcome, remedy, text
from fedsdn.inspect.trace.question import (
    ANY_CLIENT_PORT,
    direction_at,
    find_entry,
    parse_question,
    peer_of,
)
from fedsdn.ovs.conntrack import Entry
from fedsdn.ovs.learned import learned_ports
from fedsdn.ovs.packet import TracedPacket, state
from fedsdn.ovs.trace import Trace, parse_trace
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.declarations import Table
from fedsdn.shell import Shell
from fedsdn.socket_address import SocketAddress
from tests.unit.federations import three_sites

CLIENT, SERVER = (
    SocketAddress(ip_address("10.1.0.11"), 40000),
    SocketAddress(ip_address("10.2.0.11"), 80),
)
ENTRY = Entry(CLIENT, SERVER, CLIENT, 1, "ESTABLISHED")


def cookie(table: Table, why: str) -> str:
    flows = pipeline_flows(three_sites(), "a")
    return f"{next(flow.cookie for flow in flows if flow.table is table and flow.why == why):#x}"


COPIES = "no conntrack state: a copy to each proxy port, the owner takes it"
BOTH = f"""Flow: tcp,in_port=tap-vm1

bridge("br-provider")
---------------------
 0. tcp,reg15=0, priority 20000, cookie {cookie(Table.HOOK, "may be to another site: the one flow for all prefixes")}
    resubmit(,106)
106. tcp,nw_dst=10.2.0.0/24, priority 10, cookie {cookie(Table.REMOTE, "packets to another site's prefix")}
    resubmit(,110)
110. tcp,nw_src=10.1.0.0/24, priority 10, cookie 0x1
    ct(table=115,zone=65237,nat)
    nat
     -> A clone of the packet is forked to recirculate.
    drop

Final flow: unchanged
Megaflow: recirc_id=0
Datapath actions: ct(zone=65237,nat),recirc(0x1)

===============================================================================
recirc(0x1) - resume conntrack with ct_state=new|trk
===============================================================================

bridge("br-provider")
---------------------
    thaw
        Resuming from table 115
115. tcp, priority 10, cookie {cookie(Table.TENANT_STATE, COPIES)}
    resubmit(,140)
    140. vlan_tci=0x0000/0x1fff, priority 10, cookie {cookie(Table.TO_SOCKSIFIER, "to the proxy")}
            move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]
            NORMAL
             -> no learned MAC for destination, flooding
            output:"socksifier"
    resubmit(,145)
145. vlan_tci=0x0000/0x1fff, priority 10, cookie {cookie(Table.TO_SOCKSIFIER, "to the proxy")}
    output:server

Datapath actions: br-provider,vm2,set(eth(dst=02:fe:72:69:ef:61)),socksifier,set(eth(dst=0)),server
"""  # noqa: E501 -- as it is printed
DROPPED = f"""
 0. in_port=server, priority 30000, cookie 0x0
    resubmit(,130)
130. priority 0, cookie {cookie(Table.SERVER, "drop what the proxy may not send")}
    drop

Datapath actions: drop
"""


def traced(text: str) -> Trace:
    return parse_trace(text.splitlines())


@pytest.mark.parametrize(
    ("source", "destination", "message"),
    [
        ("10.1.0.11", "10.2.0.11", "'10.2.0.11' has no port: write it behind, as"),
        ("vm1", "10.2.0.11:80", "'vm1' is no address: write"),
        ("10.1.0.11:0", "10.2.0.11:80", "'10.1.0.11:0' is no address"),
        ("10.1.0.11", "10.2.0.11:65536", "'10.2.0.11:65536' is no address"),
        ("10.1.0.11", "[fd00:2::11]:80", "of different families"),
        ("10.1.0.11:x", "10.2.0.11:80", "'10.1.0.11:x' is no address"),
        ("10.1.0.11", "10.2.0.11:８０", "'10.2.0.11:８０' is no address"),  # noqa: RUF001
        ("10.1.0.11:", "10.2.0.11:80", "'10.1.0.11:' is no address"),
        ("fd00:1::11", "[fd00:2::11]80", "'[fd00:2::11]80' is no address"),
        ("fd00:1::11", "[fd00:2::11]x80", "'[fd00:2::11]x80' is no address"),
    ],
)
def test_a_question_that_cannot_be_read_is_one_line(
    source: str, destination: str, message: str
) -> None:
    with pytest.raises(FedsdnError, match=message.replace("[", r"\[")):
        parse_question(source, destination, reply=False)


def test_ends_are_read_with_and_without_a_clients_port() -> None:
    question = parse_question("fd00:1::11", "[fd00:2::11]:80", reply=True)
    assert (question.client_port, question.destination.port, question.reply) == (None, 80, True)
    assert question.ends(None)[0].port == ANY_CLIENT_PORT
    assert parse_question("[fd00:1::11]:7", "[fd00:2::11]:80", reply=False).client_port == 7


def test_where_a_connection_goes_depends_on_the_site() -> None:
    federation = three_sites()
    question = parse_question("10.1.0.11", "10.2.0.11:80", reply=False)
    site = federation.site
    assert direction_at(site("a"), question) is Direction.OUTBOUND
    assert direction_at(site("b"), question) is Direction.INBOUND
    with pytest.raises(FedsdnError, match=r"neither \S+ nor \S+ is in a prefix of site c"):
        direction_at(site("c"), question)
    assert peer_of(federation, site("a"), question) == site("b")
    stray = parse_question("10.1.0.11", "203.0.113.9:80", reply=False)
    assert peer_of(federation, site("a"), stray) is None


def test_the_live_connection_is_found_first() -> None:
    question = parse_question("10.1.0.11", "10.2.0.11:80", reply=False)
    other = parse_question("10.1.0.11:1", "10.2.0.11:80", reply=False)
    ended = Entry(CLIENT, SERVER, CLIENT, 1, "TIME_WAIT")
    assert find_entry([ended, ENTRY], question) is ENTRY
    assert find_entry([ENTRY], other) is None
    assert find_entry([ended], question) is None


@pytest.mark.parametrize(
    ("source", "entry", "said"),
    [
        (CLIENT, None, "trk,new"),
        (CLIENT, ENTRY, "trk,est"),
        (SERVER, ENTRY, "trk,est,rpl"),
        (CLIENT, Entry(CLIENT, SERVER, CLIENT, 1, "SYN_SENT"), "trk,new"),
        (SERVER, Entry(CLIENT, SERVER, CLIENT, 1, "SYN_SENT"), "trk,est,rpl"),
    ],
)
def test_what_conntrack_would_say(source: SocketAddress, entry: Entry | None, said: str) -> None:
    packet = TracedPacket("p", source, SERVER, "02::", "02::", opening=False)
    assert state(packet, entry) == said


def test_a_packet_is_written_as_a_flow() -> None:
    packet = TracedPacket("vm-1", CLIENT, SERVER, "02:00:00:00:00:01", "02:00:00:00:00:02", True, 7)
    assert packet.flow(1) == (
        'in_port="vm-1",tcp,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,nw_src=10.1.0.11,'
        "nw_dst=10.2.0.11,tcp_src=40000,tcp_dst=80,tcp_flags=syn,dl_vlan=7,ct_mark=0x1"
    )


def test_datagrams_are_written_as_flows_too() -> None:
    made = partial(TracedPacket, source_mac="02::1", destination_mac="02::2", opening=True)
    asked = made("vm1", CLIENT, SERVER, protocol="udp").flow(0)
    assert asked.startswith('in_port="vm1",udp,')
    assert asked.endswith("udp_src=40000,udp_dst=80")
    four = made("vm1", CLIENT, SERVER, protocol="icmp")
    assert four.flow(0).endswith("nw_dst=10.2.0.11,icmp_type=8,icmp_code=0")
    near, far = (SocketAddress(ip_address(f"fd00:{number}::11"), 0) for number in (1, 2))
    reply = made("vm1", near, far, protocol="icmp", reply=True)
    assert reply.flow(0).endswith("ipv6_dst=fd00:2::11,icmpv6_type=129,icmpv6_code=0")


def test_icmp_is_asked_about_without_ports() -> None:
    question = parse_question("10.1.0.11", "10.2.0.11", reply=False, protocol="icmp")
    assert [end.port for end in question.ends(None)] == [0, 0]
    for ends in (("10.1.0.11:1", "10.2.0.11"), ("10.1.0.11", "10.2.0.11:1")):
        with pytest.raises(FedsdnError, match="has a port, ICMP has none: leave it out"):
            parse_question(*ends, reply=False, protocol="icmp")


def test_what_the_datapath_prints_is_read_step_by_step() -> None:
    trace = traced(BOTH)
    assert [step.table for step in trace.steps] == [0, 106, 110, 115, 140, 145]
    assert trace.steps[0].actions == ("resubmit(,106)",)
    assert trace.steps[3].actions == ("resubmit(,140)", "resubmit(,145)")
    assert trace.ports == ("socksifier", "server")
    assert not trace.flooded, "that was for the bridge to learn"


def test_a_path_is_explained() -> None:
    told = "\n".join(text(traced(BOTH)))
    assert "HOOK [0]: may be to another site" in told
    assert "REMOTE [106]: packets to another site's prefix" in told
    assert "TENANT [110]: another owner's flow" in told
    assert "→ asks conntrack, goes on in TENANT_STATE [115]\n      → is translated, if" in told
    assert "→ shows the bridge where its sender is\n      → leaves by port socksifier" in told
    assert "is dropped" not in told
    assert told.endswith("both proxy ports get a copy; the one that has the connection takes it")


def test_a_commit_is_no_drop() -> None:
    """The trace prints one for what conntrack keeps; the packet goes on."""
    shown = (
        "115. tcp, priority 30, cookie 0x5\n    ct(commit,zone=65237)\n    drop\n"
        "     -> Sets the packet to an untracked state, and clears all the conntrack fields.\n"
        "    output:socksifier\nDatapath actions: ct(commit,zone=65237),socksifier\n"
    )
    told = "\n".join(text(traced(shown)))
    assert "→ is committed to conntrack\n      → leaves by port socksifier" in told


def test_a_drop_says_which_flow_and_what_to_do() -> None:
    trace = traced(DROPPED)
    assert (trace.ports, outcome(trace)) == ((), "it is dropped")
    assert "compare 'prefixes' in the federation files of both sites" in remedy(trace)
    told = "\n".join(text(trace))
    assert "SERVER [130]: drop what the proxy may not send" in told
    assert "what to do: " in told


def test_a_drop_by_somebody_else_is_theirs() -> None:
    trace = traced(" 0. ip, priority 1, cookie 0x5\n    drop\nDatapath actions: drop\n")
    assert remedy(trace) == "look at who made the flow: fedsdn flows dump --all --table 0"


def test_a_flood_is_said() -> None:
    shown = " 0. priority 0, cookie 0x0\n    NORMAL\n     -> flooding\nDatapath actions: a,b\n"
    assert outcome(traced(shown)).startswith("it leaves by every port")


def test_an_address_behind_the_bridges_own_port_is_learned_there_too() -> None:
    """ovs-vswitchd prints that port's name, and no number."""
    shown = (
        " port  VLAN  MAC                Age\\n"
        "LOCAL     0  02:00:00:00:00:01    3\\n"
        "    7     0  02:00:00:00:00:02    0\\n"
        "    8   101  02:00:00:00:00:03    0\\n"
    )
    shell = Shell("a", ("sh", "-c", f"printf '{shown}'"))
    assert learned_ports(shell, "br", 0) == {"02:00:00:00:00:01": 65534, "02:00:00:00:00:02": 7}
