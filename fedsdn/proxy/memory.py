"""Tables in memory that all workers share.

They have a fixed size and are made before the workers are forked. An entry is one aligned word of
eight bytes, which is read and written as a whole, so there is no lock that a killed worker could
keep.
"""

from __future__ import annotations

import mmap
from hashlib import blake2b

_WORD = 8


def words(count: int) -> memoryview[int]:
    """Make so many unsigned words, all zero."""
    return memoryview(mmap.mmap(-1, count * _WORD)).cast("Q")


def digest(secret: bytes, *parts: bytes) -> int:
    """Return a word for a key, whose parts have fixed sizes.

    Without the ``secret`` nobody can choose keys that have the same.
    """
    return int.from_bytes(blake2b(b"".join(parts), key=secret, digest_size=_WORD).digest(), "big")
