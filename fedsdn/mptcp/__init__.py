"""Multipath TCP of the kernel: requests, events, and the state of sockets."""
