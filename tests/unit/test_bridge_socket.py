"""Who is connected to a bridge, read from what ss prints."""

from __future__ import annotations

from fedsdn.openflow.bridge_socket import is_connected

LISTED = """\
u_str 0      0      /run/openvswitch/db.sock 969195 * 970261 users:(("ovsdb-server",pid=7,fd=20))
u_str 0      0      /var/run/openvswitch/br-provider.mgmt 970732 * 971087 users:(("ovs-vswitchd",pid=12,fd=47))
u_str 0      0      /var/run/openvswitch/br-other.mgmt 970733 * 971088 users:(("ovs-vswitchd",pid=12,fd=48))
u_str 0      0                              * 970261 * 969195 users:(("ovs-vswitchd",pid=12,fd=14))
u_str 0      0                              * 971087 * 970732 users:(("osken-manager",pid=65,fd=11))
u_str 0      0                              * 971088 * 970733 users:(("ovs-ofctl",pid=66,fd=3))
"""  # noqa: E501


def test_the_application_is_connected_to_its_bridge_only() -> None:
    assert is_connected(LISTED, "br-provider")
    assert not is_connected(LISTED, "provider")
    assert not is_connected("", "br-provider")


def test_another_client_of_the_bridge_is_not_the_application() -> None:
    assert not is_connected(LISTED, "br-other")
