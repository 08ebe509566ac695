"""The proxy's processes: a parent, and one worker per core."""
