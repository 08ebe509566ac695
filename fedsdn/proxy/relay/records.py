"""The records in which two proxies pass on a connection between VMs (``docs/socks-extension.md``).

End of stream and reset are records, behind the data that they follow. Multipath TCP's own would
travel beside the data: a reset overtakes what is under way on another subflow, a DATA_FIN may never
be acknowledged, and a connection that has sent one gets no more subflows (RFC 8684, section 3.3.3).

Pure code: bytes in, values out.
"""

from __future__ import annotations

import struct
from enum import IntEnum

HEADER = struct.Struct(">I")
"""Kind in the first octet, value in the other three."""

MOST = (1 << 24) - 1
"""The largest value of a record."""

_KIND_SHIFT = 24


class Kind(IntEnum):
    """What a record says."""

    DATA = 0
    """As many octets as ``value`` follow, for the VM."""
    CONSUMED = 1
    """The VM's socket has taken ``value`` more octets of what the receiver of this has sent."""
    END = 2
    """The VM has ended its stream."""
    SEEN = 3
    """Acknowledges the receiver's END, and all data before it."""
    RESET = 4
    """The VM has reset the connection; nothing follows."""
    URGENT = 5
    """The first octet of the next DATA is urgent (RFC 9293, section 3.8.5)."""
    SILENT = 6
    """Whether the VM is silent: 1, or 0. Its DATA and END say that it is not, too."""


_MOST_VALUES = {Kind.END: 0, Kind.SEEN: 0, Kind.RESET: 0, Kind.URGENT: 0, Kind.SILENT: 1}
"""The largest value of a record that holds no number of octets."""


class RecordError(Exception):
    """What a peer has sent is no record."""


def record(kind: Kind, value: int = 0) -> bytes:
    """Make a record, or the header of one with data."""
    return HEADER.pack(kind << _KIND_SHIFT | value)


class Parser:
    """Finds the records in a stream of bytes, however it is cut up.

    ``left`` is how many octets of data come next; they are the caller's to take off.
    """

    def __init__(self) -> None:
        """Begin with a header."""
        self.left = 0
        self._header = b""

    def header(self, arrived: memoryview) -> tuple[int, tuple[Kind, int] | None]:
        """Read the next header, when nothing is ``left``.

        Returns how many octets of ``arrived`` are used up, and kind and value of the record; None
        while its header is incomplete. The value of data is in ``left``, too.

        Raises:
            RecordError: there is no such kind, or it has no such value.

        """
        taken = HEADER.size - len(self._header)
        self._header += arrived[:taken]
        if len(self._header) < HEADER.size:
            return len(arrived), None
        (packed,) = HEADER.unpack(self._header)
        self._header = b""
        number, value = packed >> _KIND_SHIFT, packed & MOST
        try:
            kind = Kind(number)
        except ValueError:
            raise RecordError(f"record of kind {number:#x}") from None
        if not value and kind in (Kind.DATA, Kind.CONSUMED):
            raise RecordError(f"{kind.name} of nothing")
        if value > _MOST_VALUES.get(kind, MOST):
            raise RecordError(f"{kind.name} with value {value}")
        if kind is Kind.DATA:
            self.left = value
        return taken, (kind, value)
