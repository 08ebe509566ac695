"""Memory for bytes between two sockets, borrowed only while there are any."""

from __future__ import annotations

BUFFER_BYTES = 1 << 16
"""The most that is read at once, and so that waits between two sockets."""

_KEPT = 64


class BufferPool:
    """Buffers of ``BUFFER_BYTES``, kept for the next direction that needs one."""

    def __init__(self) -> None:
        """Start empty."""
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """Get a buffer."""
        return self._free.pop() if self._free else memoryview(bytearray(BUFFER_BYTES))

    def give_back(self, buffer: memoryview) -> None:
        """Take a buffer back."""
        if len(self._free) < _KEPT:
            self._free.append(buffer)
