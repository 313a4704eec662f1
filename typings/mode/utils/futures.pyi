import asyncio
from typing import Any

def notify(fut: asyncio.Future[Any] | None, result: Any = None) -> None: ...
