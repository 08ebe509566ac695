"""Tables in memory that all workers share.

They have a fixed size and are made before the workers are forked. An entry is one aligned word of
eight bytes, which is read and written as a whole, so there is no lock that a killed worker could
keep.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from hashlib import blake2b

_WORD = 8
_SECRET_BYTES = 16

_FOR_GOOD = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

SECRET_WORDS = _SECRET_BYTES // _WORD


class Memory:
    """Blocks of zeroes that processes share, also with the program that a reload executes.

    No block changes its size: who reads what a worker has cut off would get a SIGBUS (mmap(2)).

    A program asks for its blocks in the same order each time; the first ones are those that it has
    ``inherited``, by their descriptors.
    """

    def __init__(self, inherited: Sequence[int] = ()) -> None:
        """Begin without any."""
        self.descriptors: list[int] = []
        self._inherited = iter(inherited)

    def block(self, size: int) -> memoryview[int]:
        """Make a block, or take the next of those inherited."""
        descriptor = next(self._inherited, None)
        if descriptor is None:
            descriptor = os.memfd_create("fedsdn", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _FOR_GOOD)
        self.descriptors.append(descriptor)
        return memoryview(mmap.mmap(descriptor, 0))


def octets(count: int, memory: Memory | None = None) -> memoryview[int]:
    """Make so many octets, all zero, or take those that ``memory`` has inherited.

    Without it they are shared with processes that are forked, and with no other program.
    """
    return memoryview(mmap.mmap(-1, count)) if memory is None else memory.block(count)


def words(count: int, memory: Memory | None = None) -> memoryview[int]:
    """Make so many unsigned words, as ``octets``."""
    return octets(count * _WORD, memory).cast("Q")


def secret_in(place: memoryview[int]) -> bytes:
    """Return the secret in ``SECRET_WORDS`` words; the first who asks makes it."""
    if not any(place):
        place[:] = memoryview(os.urandom(_SECRET_BYTES)).cast("Q")
    return place.tobytes()


def digest(secret: bytes, *parts: bytes) -> int:
    """Return a word for a key, whose parts have fixed sizes.

    Without the ``secret`` nobody can choose keys that have the same.
    """
    return int.from_bytes(blake2b(b"".join(parts), key=secret, digest_size=_WORD).digest(), "big")
