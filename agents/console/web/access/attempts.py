"""How often an address may come with a wrong token."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address

MAX_FAILURES: Final = 5
WINDOW_SECONDS: Final = 60.0
_KEPT_ADDRESSES: Final = 4_096


class Attempts:
    """Failed logins of the last minute by address; of more than a few, the next ones have to wait."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        """`seconds` is a clock that only goes forward."""
        self.failed = 0
        self._seconds = seconds
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_seconds(self, address: Address | None) -> float:
        """How long until this address may try again; 0 if it may now."""
        failures = self._failures.get(_group(address))
        if failures is None:
            return 0.0
        while failures and failures[0] <= self._seconds() - WINDOW_SECONDS:
            failures.popleft()
        if len(failures) < MAX_FAILURES:
            return 0.0
        return failures[-MAX_FAILURES] + WINDOW_SECONDS - self._seconds()

    def fail(self, address: Address | None) -> None:
        """A wrong token came from this address."""
        self.failed += 1
        group = _group(address)
        self._failures.setdefault(group, deque(maxlen=MAX_FAILURES)).append(self._seconds())
        self._failures.move_to_end(group)
        while len(self._failures) > _KEPT_ADDRESSES:
            self._failures.popitem(last=False)


def _group(address: Address | None) -> str:
    """What one client has: an IPv4 address, or a whole IPv6 network."""
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address)
