"""A bridge's flows, read by name."""
