"""Routes over the live paths for what is not TCP: which carry, and the kernel's next hops."""
