"""What an operator looks at: flows, traces, connections, uplinks, a site on one screen."""
