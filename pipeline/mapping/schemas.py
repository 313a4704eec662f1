"""Schemas of a registry, as the reader of Avro needs them; who fetches them is no concern of the core."""

from __future__ import annotations

from typing import Any, Protocol


class Schemas(Protocol):
    """Schemas by the numbers that a registry gave them."""

    def schema(self, number: int, /) -> dict[str, Any]:
        """An Avro schema as parsed JSON; raises LookupError if the registry has none of this number.

        Where the registry cannot be asked it raises another FaultlineError: no record is to blame for that.
        """
