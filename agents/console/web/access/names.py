"""The names by which browsers may come, and whether a page of another site speaks."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class HostNames:
    """Names that lead to this console.

    Whoever can make a name of theirs lead here (DNS rebinding) makes their own page one of the same origin. So only
    names that are declared are answered, and addresses, which nobody can make lead elsewhere.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._declared = frozenset(name.lower().rstrip(".") for name in names)

    def has(self, host: str) -> bool:
        """Whether a Host header names this console."""
        parts = split_host(host)
        if parts is None:
            return False
        name, _ = parts
        return parsed_address(name) is not None or name == "localhost" or name in self._declared

    def is_same_origin(self, origin: str, host: str, scheme: str | None) -> bool:
        """Whether an Origin is that of this console's pages; `scheme` is the one of the request if it is known.

        Behind a proxy that changes the Host header, pages have a declared name as their origin.
        """
        try:
            parts = urlsplit(origin)
            given = (parts.hostname or "", parts.port)
        except ValueError:
            return False
        if parts.scheme not in _DEFAULT_PORTS or not given[0] or parts.path or parts.query or parts.fragment:
            return False
        if scheme is not None and parts.scheme != scheme:
            return False
        if given[0].rstrip(".") in self._declared:
            return True
        own, default = split_host(host), _DEFAULT_PORTS[parts.scheme]
        return own is not None and given[0] == own[0] and (given[1] or default) == (own[1] or default)


def split_host(host: str) -> tuple[str, int | None] | None:
    """Name in lower case and port of a Host header; None if it is none."""
    if not host or len(host) > 300 or any(sign in host for sign in "/\\@?#, \t"):
        return None
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    return (name.rstrip("."), port) if name else None


def parsed_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address that a text is; one of IPv4 also where it stands as one of IPv6."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    address = parsed_address(host)
    return host == "localhost" if address is None else address.is_loopback
