"""Measurements of a lab: what its users would notice, in figures."""
