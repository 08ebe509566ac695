"""Reading Open vSwitch: its database, flows, conntrack, and the datapath's trace."""
