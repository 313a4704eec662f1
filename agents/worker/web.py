"""The worker's own web server: /metrics for Prometheus, /healthz and /readyz for supervisors."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from pipeline.errors import PortInUseError

Probe = Callable[[], str | None]
"""Returns None if all is well, else what is wrong."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """A scrape every few seconds is not worth a log line."""


class WebServer:
    """Serves a registry and two probes from a thread of its own."""

    def __init__(self, registry: CollectorRegistry, *, alive: Probe, ready: Probe) -> None:
        self._metrics = make_wsgi_app(registry)
        self._probes = {"/healthz": alive, "/readyz": ready}
        self._server: WSGIServer | None = None

    def start(self, host: str, port: int) -> int:
        """Begin to listen; returns the port. Raises PortInUseError if the port is taken."""
        try:
            server = make_server(host, port, self._app, server_class=_Server, handler_class=_QuietHandler)
        except OSError as error:
            raise PortInUseError(
                f"cannot listen on {host}:{port} ({error.strerror}); set FAULTLINE_WEB_PORT to a free port, or to 0"
            ) from error
        self._server = server
        threading.Thread(target=server.serve_forever, name="web", daemon=True).start()
        return int(server.server_port)

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            page: Iterable[bytes] = self._metrics(environ, start_response)
            return page
        probe = self._probes.get(path)
        if probe is None:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"only /metrics, /healthz and /readyz are here\n"]
        problem = probe()
        status = "200 OK" if problem is None else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [(problem or "ok").encode() + b"\n"]
