"""The messages of the channel: JSON-RPC 2.0, one message a line, checked as they are read.

Pure code: bytes in, values out. What a message must hold is what its class here says, and msgspec
reads nothing else; ``docs/channel.md`` describes every message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeVar

from msgspec import UNSET, DecodeError, Meta, Raw, Struct, UnsetType, ValidationError, convert
from msgspec.json import Decoder
from msgspec.json import decode as decode_json
from msgspec.json import encode as encode_json

from fedsdn.channel.connection import Connection, Direction
from fedsdn.pipeline.restore import Restoration
from fedsdn.socket_address import SocketAddress
from fedsdn.uplinks.news import ToldPath

VERSION = 2
"""Of the messages. Both sides must have the same."""

LONGEST_LINE = 1 << 20
"""Bytes of the longest message; a longer one ends the channel."""

MOST_CONNECTIONS = 1000
"""Connections that one message may tell of, or ask to restore."""

MOST_PATHS = 1000
"""Paths that one message may tell of."""

MOST_PEERS = 5000
"""Peers that one message may name."""

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
"""Error codes of JSON-RPC 2.0, section 5.1."""

WRONG_VERSION, NOT_RESTORED = -32000, -32001

_Most = Meta(max_length=MOST_CONNECTIONS)
_Name = Annotated[str, Meta(max_length=32)]
Natural = Annotated[int, Meta(ge=0)]
TcpPort = Annotated[int, Meta(ge=1, le=65535)]

Pair = tuple[Annotated[str, Meta(max_length=45)], TcpPort]
"""An IP address and a TCP port."""

Moved = tuple[Natural, Natural, Natural]
"""A connection's number, bytes sent to the peer, bytes received from it."""


class ChannelError(Exception):
    """A message that cannot be taken, or an answer that says so; ``code`` is JSON-RPC's."""

    def __init__(self, code: int, message: str, call: int | None = None) -> None:
        """Say what is wrong in a few words; ``call`` is the number of the request, if any."""
        super().__init__(message)
        self.code = code
        self.call = call


# What calls hold


class ConnectionMessage(Struct, frozen=True):
    """A connection that is open. ``token`` is 0 for plain TCP, ``since`` is in Unix time."""

    id: Natural
    direction: Direction
    peer: _Name
    client: Pair
    destination: Pair
    shown: Pair
    token: Annotated[int, Meta(ge=0, lt=1 << 32)]
    since: float
    sent: Natural
    received: Natural


class Hello(Struct, frozen=True):
    """Proxy to application, request: the first message."""

    version: int
    worker: Natural
    pid: Annotated[int, Meta(ge=1)]


class Restore(Struct, frozen=True):
    """Proxy to application, request: restore these connections' clients.

    Of each connection own address, client, destination.
    """

    connections: Annotated[
        list[tuple[Pair, Pair, Pair]], Meta(min_length=1, max_length=MOST_CONNECTIONS)
    ]


class Connections(Struct, frozen=True):
    """Proxy to application: what changed; after hello, all that are open."""

    opened: Annotated[list[ConnectionMessage], _Most]
    moved: Annotated[list[Moved], _Most]
    closed: Annotated[list[Moved], _Most]


class PathsMessage(Struct, frozen=True):
    """Application to proxy: what changed of the paths; after ``hello``, and ``anew``, all.

    ``endpoints`` are the uplinks that have an MPTCP endpoint. If there is ``more``, the next
    messages belong to this one. Without anything it says that the application is there.
    """

    anew: bool
    more: bool
    endpoints: Annotated[list[_Name], Meta(max_length=255)]
    paths: Annotated[list[ToldPath], Meta(max_length=MOST_PATHS)]
    gone: Annotated[list[tuple[_Name, _Name, _Name]], Meta(max_length=MOST_PATHS)]


class Needed(Struct, frozen=True):
    """Proxy to application: peers that connections of the worker depend on from now on, or not."""

    begun: Annotated[list[_Name], Meta(max_length=MOST_PEERS)]
    ended: Annotated[list[_Name], Meta(max_length=MOST_PEERS)]


class List(Struct, frozen=True):
    """Anybody to application, request: connections, leaving out the first ``skip``."""

    skip: Natural


class Reload(Struct, frozen=True):
    """Request: read the federation file again; application to proxy, or anybody to application."""


Params = Hello | Restore | Connections | Needed | List | PathsMessage | Reload
METHODS: dict[str, type[Params]] = {
    "hello": Hello,
    "restore": Restore,
    "connections": Connections,
    "needed": Needed,
    "list": List,
    "paths": PathsMessage,  # application to proxy, notification: whenever something changes
    "reload": Reload,
}
_NAMES = {kind: name for name, kind in METHODS.items()}


# What answers hold


class Welcome(Struct, frozen=True):
    """The application's answer to ``hello``."""

    version: int
    site: str


class Restored(Struct, frozen=True):
    """For each connection null, or why its client is not restored."""

    errors: list[str | None]


class Page(Struct, frozen=True):
    """Some of the connections that are open, and how many there are in all."""

    connections: list[ConnectionMessage]
    of: Natural


class Reloaded(Struct, frozen=True):
    """How many connections a reload has reset."""

    reset: Natural


Result = Welcome | Restored | Page | Reloaded
Kind = TypeVar("Kind", Welcome, Restored, Page, Reloaded)


@dataclass(frozen=True, slots=True)
class Call:
    """A request, or without ``number`` a notification, which is not answered."""

    params: Params
    number: int | None = None

    @property
    def method(self) -> str:
        """The method's name."""
        return _NAMES[type(self.params)]

    def encode(self) -> bytes:
        """Write the message as a line."""
        message = {"jsonrpc": "2.0", "method": self.method, "params": self.params}
        return _line(message if self.number is None else {**message, "id": self.number})


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the request with this ``number``, before it is known what that was."""

    number: int
    result: dict[str, Any]

    def read(self, kind: type[Kind]) -> Kind:
        """Read what the answer holds.

        Raises:
            ChannelError: it holds something else.

        """
        try:
            return convert(self.result, kind)
        except ValidationError as error:
            raise ChannelError(INVALID_REQUEST, f"answer: {error}", self.number) from None


def encode_answer(number: int, result: Result) -> bytes:
    """Write the answer to a request, as a line."""
    return _line({"jsonrpc": "2.0", "id": number, "result": result})


def encode_error(error: ChannelError) -> bytes:
    """Write the answer to a request that could not be taken, as a line."""
    body = {"code": error.code, "message": str(error)}
    return _line({"jsonrpc": "2.0", "id": error.call, "error": body})


def _line(message: dict[str, Any]) -> bytes:
    return encode_json(message) + b"\n"


# Reading


class _Error(Struct, frozen=True):
    code: int
    message: str


class _Message(Struct, frozen=True):
    """A request, a notification (no id), or an answer."""

    jsonrpc: Literal["2.0"]
    id: int | None = None
    method: Annotated[str, Meta(max_length=80)] | UnsetType = UNSET
    params: Raw = Raw(b"{}")
    result: dict[str, Any] | UnsetType = UNSET
    error: _Error | UnsetType = UNSET


_MESSAGE = Decoder(_Message)
_PARAMS: dict[str, Decoder[Any]] = {name: Decoder(kind) for name, kind in METHODS.items()}


def decode(line: bytes) -> Call | Answer:
    """Read a message.

    Raises:
        ChannelError: it is none, or it is the answer that a request failed.

    """
    message = _message(line)
    if message.error is not UNSET:
        raise ChannelError(message.error.code, message.error.message, message.id)
    if message.result is not UNSET and message.id is not None:
        return Answer(message.id, message.result)
    if message.method is UNSET:
        raise ChannelError(INVALID_REQUEST, "no message of JSON-RPC 2.0")
    decoder = _PARAMS.get(message.method)
    if decoder is None:
        raise ChannelError(METHOD_NOT_FOUND, f"no method {message.method!r}", message.id)
    try:
        return Call(decoder.decode(message.params), message.id)
    except (ValueError, RecursionError) as error:
        raise ChannelError(INVALID_PARAMS, f"{message.method}: {error}", message.id) from None


def _message(line: bytes) -> _Message:
    try:
        message = _MESSAGE.decode(line)
    except (DecodeError, UnicodeError, RecursionError):
        pass
    else:
        if sum(one is not UNSET for one in (message.method, message.result, message.error)) == 1:
            return message
    try:
        decode_json(line)
    except (ValueError, RecursionError):
        raise ChannelError(PARSE_ERROR, "no JSON") from None
    raise ChannelError(INVALID_REQUEST, "no message of JSON-RPC 2.0")


# Values of ours as messages hold them


def restore(wanted: Iterable[Restoration]) -> Restore:
    """Write what is to be restored."""
    return Restore([(_pair(one.own), _pair(one.client), _pair(one.destination)) for one in wanted])


def restorations(asked: Restore, call: int | None = None) -> list[Restoration]:
    """Read what a ``restore`` asks for; ``call`` is its number.

    Raises:
        ChannelError: an address is none, or addresses are of different families.

    """
    found = []
    for row in asked.connections:
        own, client, destination = (_address(pair, call) for pair in row)
        if len({one.address.version for one in (own, client, destination)}) > 1:
            raise ChannelError(INVALID_PARAMS, "addresses of different families", call)
        found.append(Restoration(own, client, destination))
    return found


def connections(
    opened: Sequence[Connection], moved: Sequence[Connection], closed: Sequence[Connection]
) -> Connections:
    """Write what has changed of connections."""
    return Connections(
        [connection_message(one) for one in opened],
        [(one.number, one.sent, one.received) for one in moved],
        [(one.number, one.sent, one.received) for one in closed],
    )


def connection_message(connection: Connection) -> ConnectionMessage:
    """Write a connection."""
    return ConnectionMessage(
        id=connection.number,
        direction=connection.direction,
        peer=connection.peer,
        client=_pair(connection.client),
        destination=_pair(connection.destination),
        shown=_pair(connection.shown),
        token=connection.token,
        since=connection.since,
        sent=connection.sent,
        received=connection.received,
    )


def connection_from(message: ConnectionMessage) -> Connection:
    """Read a connection.

    Raises:
        ChannelError: an address is none.

    """
    return Connection(
        number=message.id,
        direction=message.direction,
        peer=message.peer,
        client=_address(message.client),
        destination=_address(message.destination),
        shown=_address(message.shown),
        token=message.token,
        since=message.since,
        sent=message.sent,
        received=message.received,
    )


def _pair(of: SocketAddress) -> Pair:
    return str(of.address), of.port


def _address(pair: Pair, call: int | None = None) -> SocketAddress:
    try:
        return SocketAddress(ip_address(pair[0]), pair[1])
    except ValueError:
        raise ChannelError(INVALID_PARAMS, f"{pair[0]!r} is no address", call) from None
