"""The origin of a flow, packed into its 64-bit cookie.

::

    63      48 47      32 31      16 15     12 11          0
    | 0xfed5 | site      | check   | feature | source line |

The site is a checksum of its name, so that a cookie does not change when sites are added to the
federation file. The check is a checksum of all other bits: Neutron's agent draws its cookie from
all 64 bits at each start, and the owner bits alone would sometimes claim its flows.
"""

from __future__ import annotations

import sys
from binascii import crc_hqx
from dataclasses import dataclass
from functools import lru_cache

from fedsdn.config.model import Federation, Site
from fedsdn.pipeline.declarations import COOKIE_OWNER, COOKIE_OWNER_MASK, Feature

_LINE_BITS = 12
_LINE = (1 << _LINE_BITS) - 1
_CHECK = 0xFFFF_0000


def site_checksum(site: Site) -> int:
    """16-bit checksum of a site's name."""
    return _checksum(site.name)


def _checksum(name: str) -> int:
    return crc_hqx(name.encode(), 0)


@dataclass(frozen=True, slots=True)
class Origin:
    """The site, feature and source line in a flow's cookie."""

    site: int
    feature: Feature
    line: int

    @property
    def source(self) -> str:
        """Source file, relative to the package, and line."""
        return f"pipeline/{self.feature.name.lower()}.py:{self.line}"

    def site_name(self, federation: Federation) -> str | None:
        """Name of the site, None if the federation has no such site."""
        for site in federation.sites:
            if site_checksum(site) == self.site:
                return site.name
        return None


def cookie_here(site: Site, feature: Feature, depth: int) -> int:
    """Cookie of a flow made in the source line ``depth`` callers above this function."""
    return _cookie(site.name, feature, sys._getframe(depth).f_lineno)


@lru_cache(maxsize=1 << _LINE_BITS)  # a few lines make all flows
def _cookie(site: str, feature: Feature, line: int) -> int:
    return _checked(COOKIE_OWNER | _checksum(site) << 32 | feature << _LINE_BITS | line)


def origin(cookie: int) -> Origin | None:
    """Read a cookie; None if the flow is not ours."""
    if cookie & COOKIE_OWNER_MASK != COOKIE_OWNER or cookie != _checked(cookie):
        return None
    try:
        feature = Feature((cookie & 0xFFFF) >> _LINE_BITS)
    except ValueError:
        return None
    return Origin(site=cookie >> 32 & 0xFFFF, feature=feature, line=cookie & _LINE)


def _checked(cookie: int) -> int:
    """Return the cookie with the checksum of its other bits filled in."""
    rest = cookie & ~_CHECK
    return rest | crc_hqx(rest.to_bytes(8, "big"), 0) << 16
