"""MPTCP endpoints of the proxy's namespace."""
