"""A packet's path through the bridge, explained."""
