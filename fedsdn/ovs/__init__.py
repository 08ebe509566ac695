"""Reading Open vSwitch: its daemon, its database, flows, conntrack, and the datapath's trace."""
