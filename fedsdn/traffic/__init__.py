"""The traffic of tests and measurements: an ordinary TCP program, and counters of interfaces."""
