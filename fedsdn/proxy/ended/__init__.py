"""What became of connections that failed or were ended: reasons, records, and who keeps them."""
