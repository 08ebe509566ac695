"""The OpenFlow pipeline of br-provider: named tables, one file per feature, flows as values."""
