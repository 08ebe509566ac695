"""Socksifier and SOCKS server: TCP towards tenants, Multipath TCP between sites."""
