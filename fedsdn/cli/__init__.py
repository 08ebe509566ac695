"""The fedsdn command: one file per group of commands, no work of its own."""
