"""Tunnels between the sites for everything that is IP and not TCP."""
