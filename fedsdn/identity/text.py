"""Identities as the block of a federation file that a person puts into it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fedsdn.config.identities import identity_document
from fedsdn.config.model import Identity

_INDENT = "    "
"""As deep as the fields of a site are in README's federation file."""


def block(identities: Iterable[Identity], remarks: Mapping[Identity, str]) -> str:
    """Write the field ``identity`` of a site, with a remark above each of them."""
    return "\n".join(_lines(identities, remarks))


def _lines(identities: Iterable[Identity], remarks: Mapping[Identity, str]) -> Iterator[str]:
    yield f"{_INDENT}identity:"
    for identity in identities:
        document = identity_document(identity)
        remark = remarks.get(identity, "")
        yield f"{_INDENT}  # {identity.name}{', ' if remark else ''}{remark}"
        yield f"{_INDENT}  - certificate: {document['certificate']}"
        yield f"{_INDENT}    key: {document['key']}"
        yield f"{_INDENT}    tunnel_key: {document['tunnel_key']}"
