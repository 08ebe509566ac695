"""SOCKS: the protocol, and the proxy's two roles in it."""
