"""What the reader makes of ovs-vsctl's JSON, and of tools that are not there."""

from __future__ import annotations

import json

import pytest

from fedsdn.ovs.commands import OvsError
from fedsdn.ovs.database import Interface, Port, parse_database, read_database
from fedsdn.shell import Shell

# As ovs-vsctl 3.1 prints it, a table a line.
PRINTED = """\
{"data":[[["uuid","i1"],"up1",1,1500,"up",["set",[]],["map",[]]],[["uuid","i2"],"gone",-1,["set",[]],["set",[]],"could not open network device gone (No such device)",["map",[["peer","x"]]]]],"headings":["_uuid","name","ofport","mtu","link_state","error","options"]}
{"data":[[["uuid","p1"],"up1",["uuid","i1"],["set",[]],["set",[7,8]],["set",[]],["set",[]],["map",[]],["map",[["net_uuid","n"]]]],[["uuid","p2"],"gone",["set",[["uuid","i2"],["uuid","i1"]]],4001,["set",[]],9,"access",["map",[["fedsdn","a"]]],["map",[]]]],"headings":["_uuid","name","interfaces","tag","trunks","cvlans","vlan_mode","external_ids","other_config"]}
{"data":[["br-empty",["set",[]],"",["set",[]],["map",[]]],["br-a",["set",[["uuid","p1"],["uuid","p2"]]],"netdev","OpenFlow13",["map",[["x","1"],["y","2"]]]]],"headings":["name","ports","datapath_type","protocols","external_ids"]}
{"data":[[["map",[["userspace-tso-enable","true"]]]]],"headings":["other_config"]}
"""  # noqa: E501 -- as printed


def test_a_line_ends_only_where_ovs_vsctl_ends_it() -> None:
    """Others' texts may hold what Python takes for line breaks as well; OVS prints them as is."""
    odd = "2\u2028\u0085\u000b3"
    found = parse_database(PRINTED.replace('["y","2"]', json.dumps(["y", odd], ensure_ascii=False)))
    assert found.bridges["br-a"].external_ids["y"] == odd


def test_every_kind_of_value_is_decoded() -> None:
    found = parse_database(PRINTED)
    empty, bridge = found.bridges["br-empty"], found.bridges["br-a"]
    assert (empty.ports, empty.datapath_type, empty.protocols) == ({}, "system", ())
    assert (bridge.datapath_type, bridge.protocols) == ("netdev", ("OpenFlow13",))
    assert bridge.external_ids == {"x": "1", "y": "2"}
    up1 = Interface("up1", 1, 1500, "up", None)
    error = "could not open network device gone (No such device)"
    gone = Interface("gone", -1, None, None, error, peer="x")
    assert bridge.ports == {
        "up1": Port("up1", (up1,), None, (7, 8), (), None, {}, {"net_uuid": "n"}),
        "gone": Port("gone", (gone, up1), 4001, (), (9,), "access", {"fedsdn": "a"}),
    }
    assert list(bridge.ports) == ["gone", "up1"], "a set of OVSDB has no order, a guess needs one"
    assert found.other_config == {"userspace-tso-enable": "true"}


def test_without_open_vswitch_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OvsError, match=r"^ovs-vsctl is missing: install openvswitch-switch$"):
        read_database(Shell("this host"))


def test_without_open_vswitch_elsewhere_the_package_is_named() -> None:
    elsewhere = Shell("a", prefix=("env", "PATH=/none"))
    with pytest.raises(OvsError, match=r"^ovs-vsctl is missing: install openvswitch-switch$"):
        read_database(elsewhere)
