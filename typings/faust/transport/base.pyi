from typing import Any

from faust.transport.consumer import Consumer as Consumer

class Producer:
    buffer: Any
    transport: Any

class Transport:
    Consumer: Any
    Producer: Any
    default_port: int
    driver_version: str
    url: list[Any]
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
