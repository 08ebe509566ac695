"""Checks of a site, and their report."""
