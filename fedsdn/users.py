"""Who fedsdn's processes run as."""

from __future__ import annotations

PROXY_USER = 60911
"""User and group of the proxy's workers, by number: it needs no entry in /etc/passwd."""
