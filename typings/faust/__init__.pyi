import ssl
from typing import Any

from faust import types as types

class SASLCredentials:
    def __init__(
        self,
        *,
        username: str | None = None,
        password: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        mechanism: str | None = None,
    ) -> None: ...

class SSLCredentials:
    def __init__(self, context: ssl.SSLContext | None = None) -> None: ...

class App:
    assignor: Any
    conf: Any
    consumer: Any
    consumer_generation_id: int
    crashed: bool
    loop: Any
    on_partitions_assigned: Any
    on_partitions_revoked: Any
    rebalancing: bool
    rebalancing_count: int
    transport: Any
    def __init__(self, id: str, **settings: Any) -> None: ...
    def Table(self, name: str, **settings: Any) -> Any: ...
    def agent(self, channel: Any, *, name: str | None = None) -> Any: ...
    def topic(self, *topics: str, value_type: type, value_serializer: str) -> Any: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def _create_directories(self) -> None: ...
