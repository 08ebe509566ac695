"""Uplinks: which paths live, what the peers know of it, and what follows for the kernel."""
