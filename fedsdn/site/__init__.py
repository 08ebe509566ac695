"""What a site needs on its host: the proxy's namespace, ports, addresses, routes and filters."""
