"""A packet's way through the bridge, told in words."""
