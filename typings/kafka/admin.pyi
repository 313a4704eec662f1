from enum import Enum
from typing import Any

class ConfigResourceType(Enum):
    TOPIC = ...

class ConfigResource:
    def __init__(self, resource_type: ConfigResourceType, name: str, configs: Any = None) -> None: ...

def __getattr__(name: str) -> Any: ...
