"""Has the kernel carry what is not TCP over the wanted tunnels; for one thread."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from pyroute2.netlink import NETLINK_ADD_MEMBERSHIP, NLMSG_DONE, NLMSG_ERROR, SOL_NETLINK
from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_GETROUTE

from fedsdn import namespace
from fedsdn.config.model import Network
from fedsdn.errors import FedsdnError
from fedsdn.mptcp.netlink import HEADER, aligned, queued
from fedsdn.uplinks.routes import messages
from fedsdn.uplinks.routes.groups import (
    Change,
    Hop,
    Interface,
    Present,
    SetHop,
    Wanted,
    carried,
    changes,
    target,
)

_NEWS = (1, 7, 11, 32)
"""Multicast groups of links, routes of both IP versions, and next hops (``RTNLGRP_*``)."""

_ROUNDS = 4
"""So often it is looked whether the kernel has what it was told: others may change it."""

_AT_ONCE = 64
"""So many answers fit into a socket's buffer."""
_MOST_BYTES = 1 << 16
_ANSWER_TIME = struct.pack("@ll", 5, 0)
_ERROR = struct.Struct("=i")


class Routes:
    """The routes of one table of the proxy's namespace, with their next hops."""

    def __init__(self, name: str, table: int) -> None:
        """Open the namespace called ``name`` at the first use."""
        self._name, self._table = name, table
        self._opened: ExitStack | None = None
        self._identity: int | None = None
        self._present: Present | None = None
        """As read last; None if that may not be true any more."""
        self._obeyed: Wanted | None = None
        """What was wanted when that was there already."""
        self._interfaces: dict[str, Interface] = {}

    @property
    def news(self) -> socket.socket | None:
        """What is readable when somebody has changed routes or interfaces; None while closed."""
        return None if self._opened is None else self._listening

    def close(self) -> None:
        """Close the netlink sockets; the next use opens them anew."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def carried(self) -> dict[Network, frozenset[str]]:
        """Return over which interfaces prefixes are reached now.

        Raises:
            FedsdnError: the namespace is missing, or the kernel refuses.

        """
        try:
            self._open()
            return carried(self._look(), self._interfaces)
        except OSError as error:
            raise self._refused(error) from error

    def obey(self, wanted: Wanted) -> None:
        """Make what differs from what is ``wanted``; nothing is done if nothing has changed.

        An interface that is not there, or is down, counts as none.

        Raises:
            FedsdnError: the namespace is missing, or the kernel refuses.

        """
        try:
            self._open()
            self._obey(wanted)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> FedsdnError:
        self.close()
        return FedsdnError(
            f"routes of network namespace {self._name}: {error.strerror}; trying again"
        )

    def _obey(self, wanted: Wanted) -> None:
        self._hear()
        if wanted == self._obeyed:
            return
        self._obeyed = None
        refused: set[Hop] = set()
        trouble: OSError | None = None
        aim = Present()
        known: dict[str, Interface] | None = None
        for _ in range(_ROUNDS):
            present = self._look()
            usable = _without(self._interfaces, refused)
            todo = changes(present, aim) if usable == known else None
            if todo is None or todo:  # else it is there what was aimed at
                aim, known = target(wanted, usable, present), usable
                todo = changes(present, aim)
            if not todo:
                self._obeyed = None if refused else wanted
                break
            self._present = None
            for change, error in self._make(todo):
                trouble = error
                if isinstance(change, SetHop):
                    refused.add(change.hop)
        else:
            raise trouble or OSError(0, "somebody else changes them all the time")

    def _open(self) -> None:
        identity = namespace.identity(self._name)
        if identity != self._identity:
            self.close()  # an open socket keeps a removed namespace alive
            self._identity = identity
        if self._opened is None:
            self._present = self._obeyed = None
            with ExitStack() as stack:
                asking, listening = namespace.inside(self._name, lambda: (_socket(), _socket()))
                self._asking = stack.enter_context(asking)
                self._listening = stack.enter_context(listening)
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_TIME)
                listening.setblocking(False)
                for group in _NEWS:
                    listening.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
                self._opened = stack.pop_all()

    def _hear(self) -> None:
        """Note whether somebody has changed what is there."""
        if [*queued(self._listening, _MOST_BYTES)]:
            self._present = self._obeyed = None

    def _look(self) -> Present:
        """Return what is there; it is read if it may have changed."""
        self._hear()
        if self._present is None:
            self._interfaces = messages.read_interfaces(self._list(RTM_GETLINK))
            hops, routes = self._list(messages.RTM_GETNEXTHOP), self._list(RTM_GETROUTE)
            self._present = messages.read_present(hops, routes, self._table)
        return self._present

    def _list(self, kind: int) -> Iterator[bytes]:
        self._asking.send(messages.dump(kind))
        while True:
            for answer, body in _split(self._asking.recv(_MOST_BYTES)):
                if answer == NLMSG_ERROR:
                    _raise(body)
                if answer == NLMSG_DONE:
                    return
                yield body

    def _make(self, todo: Sequence[Change]) -> Iterator[tuple[Change, OSError]]:
        """Make changes; yield those that the kernel refuses."""
        for first in range(0, len(todo), _AT_ONCE):
            part = todo[first : first + _AT_ONCE]
            self._asking.send(b"".join(messages.request(one, self._table) for one in part))
            for change in part:
                ((_, body),) = _split(self._asking.recv(_MOST_BYTES))
                try:
                    _raise(body)
                except OSError as error:
                    yield change, error


def _without(interfaces: dict[str, Interface], refused: set[Hop]) -> dict[str, Interface]:
    """Leave out the IP versions for which the kernel refuses an interface."""
    bad = {(hop.interface, hop.family) for hop in refused}
    return {
        name: Interface(
            one.number, frozenset(f for f in one.families if (one.number, f) not in bad)
        )
        for name, one in interfaces.items()
    }


def _socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    opened.bind((0, 0))
    return opened


def _split(received: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the kinds of the messages, and what follows their headers."""
    at = 0
    while at + HEADER.size <= len(received):
        length, kind, *_ = HEADER.unpack_from(received, at)
        yield kind, received[at + HEADER.size : at + length]
        at += aligned(length)


def _raise(body: bytes) -> None:
    """Raise what an answer says, if that is an error."""
    (error,) = _ERROR.unpack_from(body)
    if error:
        raise OSError(-error, os.strerror(-error))
