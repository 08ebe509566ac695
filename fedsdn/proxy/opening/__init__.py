"""Held SYNs: capturing them, and answering them as the far VM does."""
