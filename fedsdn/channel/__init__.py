"""The channel between the application and the proxy's workers: JSON-RPC over a Unix socket."""
