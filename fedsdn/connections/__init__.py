"""Federated connections, as conntrack, the proxy and the kernel's Multipath TCP see them."""
