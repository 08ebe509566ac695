"""Joins private clouds over several uplinks with Multipath TCP, steered by OpenFlow."""
