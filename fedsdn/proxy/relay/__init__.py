"""Relays: bytes, ends of stream and resets from one socket to another."""
