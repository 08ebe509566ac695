"""Where a row comes from, packed into its 64-bit cookie.

::

    63      48 47      32 31   24 23    16 15          0
    | 0xfed5 | site      | 0     | feature | source line |

The site is a checksum of its name, so that a cookie does not change when sites are added to the
federation file.
"""

from __future__ import annotations

import sys
from binascii import crc_hqx
from dataclasses import dataclass

from fedsdn.config.model import Federation, Site
from fedsdn.pipeline.declarations import COOKIE_OWNER, COOKIE_OWNER_MASK, Feature

_LOW_BITS = 0xFFFF


def site_checksum(site: Site) -> int:
    """16-bit checksum of a site's name."""
    return crc_hqx(site.name.encode(), 0)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a row's cookie says: for which site, by which feature, from which source line."""

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
    """Cookie of a row made in the source line ``depth`` callers above this function."""
    line = sys._getframe(depth).f_lineno
    return COOKIE_OWNER | site_checksum(site) << 32 | feature << 16 | line


def origin(cookie: int) -> Origin | None:
    """Read a cookie; None if the row is not ours."""
    if cookie & COOKIE_OWNER_MASK != COOKIE_OWNER:
        return None
    try:
        feature = Feature(cookie >> 16 & _LOW_BITS)
    except ValueError:
        return None
    return Origin(site=cookie >> 32 & _LOW_BITS, feature=feature, line=cookie & _LOW_BITS)
