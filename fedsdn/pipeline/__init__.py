"""The OpenFlow pipeline of br-provider: named tables, one file per feature, rows as values."""
