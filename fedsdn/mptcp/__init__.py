"""Everything that is said to the kernel about Multipath TCP, and heard from it."""
