"""Addresses and networks as the files have them."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_interface, ip_network
from typing import TypeVar

from fedsdn.config.document import Document
from fedsdn.config.model import Address, Interface, Network
from fedsdn.config.schema import describe

T = TypeVar("T")


def parse_address(document: Document) -> Address:
    """Read an IP address.

    Raises:
        ConfigError: it is not an address.

    """
    return _parsed(document, ip_address, "an IPv4 or IPv6 address, as '192.0.2.1' or 'fd00::1'")


def parse_interface(document: Document) -> Interface:
    """Read an IP address with the length of its network.

    Raises:
        ConfigError: it is not an address with a length.

    """
    write = "an address and its network's length, as '192.0.2.1/24' or '2001:db8::1/64'"
    return _parsed(_with_length(document, write), ip_interface, write)


def parse_network(document: Document) -> Network:
    """Read an IP network.

    Raises:
        ConfigError: it is not a network, or has bits set after its length.

    """
    write = "a network, as '10.1.0.0/24' or 'fd00:1::/64'"
    _with_length(document, write)
    network = _parsed(document, _network, write)
    address, _, _ = document.value.partition("/")
    if network.network_address != ip_address(address):
        raise document.error(
            f"'{document.value}', which has bits set after its /{network.prefixlen}",
            f"'{network}'",
        )
    return network


def _network(text: str) -> Network:
    return ip_network(text, strict=False)


def _with_length(document: Document, write: str) -> Document:
    """Refuse '192.0.2.1' and '192.0.2.1/255.255.255.0', which Python's ipaddress takes."""
    _, slash, length = str(document.value).partition("/")
    if not slash:
        raise document.error(f"{describe(document.value)}, which has no length", write)
    if not length.isdecimal():
        raise document.error(describe(document.value), write)
    return document


def _parsed(document: Document, parse: Callable[[str], T], write: str) -> T:
    if "%" in document.value:  # a zone (RFC 4007) means something on one host only
        raise document.error(describe(document.value), write)
    try:
        return parse(document.value)
    except ValueError as error:
        raise document.error(describe(document.value), write) from error
