"""The traffic class of a VM's connection on the other legs: the DSCP of its first segment.

It is the upper six bits of IPv4's TOS and of IPv6's traffic class (RFC 2474); the kernel keeps the
other two, ECN, to itself. Segments of both directions have it.
"""

from __future__ import annotations

import socket

from fedsdn.pipeline.declarations import traffic_class_mark


def towards_vm(sock: socket.socket, traffic_class: int) -> None:
    """Give the segments of a new TCP socket a traffic class.

    Raises:
        OSError: the connection is gone.

    """
    if traffic_class:
        sock.setsockopt(socket.SOL_IP, socket.IP_TOS, traffic_class)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)


def towards_peer(sock: socket.socket, traffic_class: int) -> None:
    """Give the segments of a Multipath TCP connection a class, on subflows to come, too.

    Its sockets have no option for IPv6 (Linux 6.18). So they get a mark, by which the namespace's
    packet filter writes the class (``site.nft``).

    Raises:
        OSError: the connection is gone.

    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, traffic_class_mark(traffic_class))
