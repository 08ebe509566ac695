"""The way of a packet through the bridge, by the datapath's own trace, told in words."""
