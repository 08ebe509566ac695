"""Flows to and from OpenFlow 1.3 messages, and the exchange of bundles with a datapath."""
