"""The messages of the channel: JSON-RPC 2.0, one message a line, checked against a schema.

Pure code: bytes in, values out. ``docs/channel.md`` describes every message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from ipaddress import ip_address
from typing import Any

from jsonschema import Draft202012Validator

from fedsdn.channel.connection import Connection, Direction
from fedsdn.pipeline.restore import Restoration
from fedsdn.socket_address import SocketAddress

VERSION = 1
"""Of the messages' schema. Both sides must have the same."""

LONGEST_LINE = 1 << 20
"""Bytes of the longest message; a longer one ends the channel."""

MOST_CONNECTIONS = 1000
"""Connections that one message may tell of, or ask to restore."""

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
"""Error codes of JSON-RPC 2.0, section 5.1."""

WRONG_VERSION, NOT_RESTORED = -32000, -32001


class ChannelError(Exception):
    """A message that cannot be taken, or an answer that says so; ``code`` is JSON-RPC's."""

    def __init__(self, code: int, message: str, call: int | None = None) -> None:
        """Say what is wrong in a few words; ``call`` is the number of the request, if any."""
        super().__init__(message)
        self.code = code
        self.call = call


@dataclass(frozen=True, slots=True)
class Call:
    """A request, or without ``number`` a notification, which is not answered."""

    method: str
    params: dict[str, Any]
    number: int | None = None

    def encode(self) -> bytes:
        """Write the message as a line."""
        message = {"jsonrpc": "2.0", "method": self.method, "params": self.params}
        return _line(message if self.number is None else {**message, "id": self.number})


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the request with this ``number``."""

    number: int
    result: dict[str, Any]

    def encode(self) -> bytes:
        """Write the message as a line."""
        return _line({"jsonrpc": "2.0", "id": self.number, "result": self.result})


def encode_error(error: ChannelError) -> bytes:
    """Write the answer to a request that could not be taken, as a line."""
    body = {"code": error.code, "message": str(error)}
    return _line({"jsonrpc": "2.0", "id": error.call, "error": body})


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Call | Answer:
    """Read a message.

    Raises:
        ChannelError: it is none, or it is the answer that a request failed.

    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise ChannelError(PARSE_ERROR, "no JSON") from None
    if not _validator("message").is_valid(message):
        raise ChannelError(INVALID_REQUEST, "no message of JSON-RPC 2.0")
    number = message.get("id")
    if "error" in message:
        raise ChannelError(message["error"]["code"], message["error"]["message"], number)
    if "result" in message:
        return Answer(number, message["result"])
    method, params = message["method"], message.get("params", {})
    if method not in _schema()["$defs"]["params"]["$defs"]:
        raise ChannelError(METHOD_NOT_FOUND, f"no method {method!r}", number)
    for problem in _validator(f"params/$defs/{method}").iter_errors(params):
        where = "/".join(str(key) for key in problem.absolute_path)
        raise ChannelError(INVALID_PARAMS, f"{method}: {where}: not as the schema says", number)
    return Call(method, params, number)


@cache
def _schema() -> dict[str, Any]:
    text = files("fedsdn.channel").joinpath("channel.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@cache
def _validator(definition: str) -> Draft202012Validator:
    return Draft202012Validator({**_schema(), "$ref": f"#/$defs/{definition}"})


# What the messages hold


def restore_params(wanted: Iterable[Restoration]) -> dict[str, Any]:
    """Write what ``restore`` asks for."""
    return {
        "connections": [
            [_pair(one.own), _pair(one.client), _pair(one.destination)] for one in wanted
        ]
    }


def restorations(call: Call) -> list[Restoration]:
    """Read what a ``restore`` asks for.

    Raises:
        ChannelError: an address is none, or addresses are of different families.

    """
    found = []
    for row in call.params["connections"]:
        own, client, destination = (_address(pair, call.number) for pair in row)
        if len({one.address.version for one in (own, client, destination)}) > 1:
            raise ChannelError(INVALID_PARAMS, "addresses of different families", call.number)
        found.append(Restoration(own, client, destination))
    return found


def connections_params(
    opened: Sequence[Connection], moved: Sequence[Connection], closed: Sequence[Connection]
) -> dict[str, Any]:
    """Write what ``connections`` tells."""
    return {
        "opened": [connection_document(one) for one in opened],
        "moved": [_traffic(one) for one in moved],
        "closed": [_traffic(one) for one in closed],
    }


def connection_document(connection: Connection) -> dict[str, Any]:
    """Write a connection, as messages hold it."""
    return {
        "id": connection.number,
        "direction": connection.direction.value,
        "peer": connection.peer,
        "client": _pair(connection.client),
        "destination": _pair(connection.destination),
        "shown": _pair(connection.shown),
        "token": connection.token,
        "since": connection.since,
        "sent": connection.sent,
        "received": connection.received,
    }


def parse_connection(document: dict[str, Any]) -> Connection:
    """Read a connection.

    Raises:
        ChannelError: an address is none.

    """
    return Connection(
        number=document["id"],
        direction=Direction(document["direction"]),
        peer=document["peer"],
        client=_address(document["client"]),
        destination=_address(document["destination"]),
        shown=_address(document["shown"]),
        token=document["token"],
        since=document["since"],
        sent=document["sent"],
        received=document["received"],
    )


def _traffic(connection: Connection) -> list[int]:
    return [connection.number, connection.sent, connection.received]


def _pair(of: SocketAddress) -> list[str | int]:
    return [str(of.address), of.port]


def _address(pair: list[Any], call: int | None = None) -> SocketAddress:
    try:
        return SocketAddress(ip_address(pair[0]), pair[1])
    except ValueError:
        raise ChannelError(INVALID_PARAMS, f"{pair[0]!r} is no address", call) from None
