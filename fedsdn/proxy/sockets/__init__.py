"""The proxy's sockets: to VMs, to peers, and what the kernel is told about them."""
