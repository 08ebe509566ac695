"""A bridge's flow tables as ovs-ofctl shows them, read by name."""
