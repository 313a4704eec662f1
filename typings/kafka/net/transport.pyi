from typing import Any

class KafkaTCPTransport:
    def _sock_recv(self, *args: Any, **kwargs: Any) -> Any: ...
