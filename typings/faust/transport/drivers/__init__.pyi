from typing import Any

TRANSPORTS: Any
