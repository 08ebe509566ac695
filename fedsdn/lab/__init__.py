"""Sites as namespaces on one machine, joined by emulated WAN wires."""
