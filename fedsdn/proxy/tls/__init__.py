"""Who the other proxy is, and that nobody reads along: TLS 1.3 on the connections between sites."""
