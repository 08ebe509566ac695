"""The keys that make a host its site: their private halves, on the host alone."""
