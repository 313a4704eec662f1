"""The web server of a worker, by raw sockets: two methods, limits of size and time, and no client keeps others out."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from agents.worker import web
from agents.worker.web import MAX_CONNECTIONS, MAX_HEAD_BYTES, Answer, WebServer
from pipeline.errors import PortInUseError


class Site:
    """A server, and what its probes say."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self.error: Exception | None = None
        registry = CollectorRegistry()
        Counter("records", "Records", ["topic"], registry=registry).labels("sensors").inc(3)
        self.server = WebServer(registry, health=self._health, ready=self._ready)
        self.port = self.server.start("127.0.0.1", 0)

    def _health(self) -> Answer:
        if self.error is not None:
            raise self.error
        return Answer(True, "ok")

    def _ready(self) -> Answer:
        return Answer(self.problem is None, self.problem or "ok")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Status, headers and body of the answer to a request."""
        with self.connect() as client:
            client.sendall(request)
            return answer_of(client)

    def get(self, path: str) -> tuple[int, bytes, bytes]:
        return self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def answer_of(client: socket.socket) -> tuple[int, bytes, bytes]:
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65_536):
            content += part
    head, _, body = content.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]) if head else 0, head, body


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.server.stop()


def test_metrics_and_probes_are_answered(site: Site) -> None:
    status, head, body = site.get("/metrics")
    assert status == 200 and b'records_total{topic="sensors"} 3.0' in body
    assert f"Content-Length: {len(body)}".encode() in head
    assert site.get("/healthz")[::2] == (200, b"ok\n")
    site.problem = "waiting for\r\npartitions \ud800"
    assert site.get("/readyz")[::2] == (503, b"waiting for partitions ?\n")
    assert site.get("/")[0] == 404
    assert site.get("http://worker:9464/healthz")[0] == 200
    assert b"records_total" not in site.get("/metrics?name[]=other")[2]


def test_prometheus_gets_the_form_that_it_asks_for(site: Site) -> None:
    request = b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\nAccept-Encoding: gzip\r\n\r\n"
    status, head, body = site.ask(request)
    assert status == 200
    assert b"application/openmetrics-text" in head and b"Content-Encoding: gzip" in head
    assert body.startswith(b"\x1f\x8b")


def test_head_has_no_body(site: Site) -> None:
    status, head, body = site.ask(b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert (status, body) == (200, b"")
    assert b"Content-Length: 0" not in head


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get"])
def test_other_methods_are_refused(site: Site, method: str) -> None:
    status, head, _ = site.ask(f"{method} /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello".encode())
    assert status == 405
    assert b"Allow: GET, HEAD" in head


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/2\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 431),
        (b"x" * 100_000, 431),
    ],
)
def test_what_is_no_request_is_refused_and_the_server_lives(site: Site, request_bytes: bytes, status: int) -> None:
    assert site.ask(request_bytes)[0] == status
    assert site.get("/healthz")[0] == 200


def test_a_failing_probe_is_an_answer(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.error = RuntimeError("broken")
    assert site.get("/healthz")[::2] == (500, b"the answer failed; the worker's log says why\n")
    assert "broken" in caplog.text


def test_clients_that_never_finish_do_not_keep_a_scrape_out(site: Site) -> None:
    """More of them than there are places, each having begun a request; the oldest give way."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(site.connect()) for _ in range(2 * MAX_CONNECTIONS)]
        for client in slow:
            with contextlib.suppress(OSError):
                client.sendall(b"GET /metrics HTTP/1.1\r\nX-a: b")
        for _ in range(3):
            assert site.get("/metrics")[0] == 200
        assert answer_of(slow[0])[0] == 0, "the oldest was closed without an answer"


def test_a_request_that_trickles_in_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "REQUEST_SECONDS", 0.2)
    ended = threading.Event()
    with site.connect() as client:

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(0.02):
                    client.sendall(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert answer_of(client)[0] == 408
        finally:
            ended.set()
            thread.join()


def test_a_client_that_goes_away_is_no_matter(site: Site) -> None:
    for part in (b"", b"GET", b"GET /metrics HTTP/1.1\r\n"):
        with site.connect() as client:
            client.sendall(part)
    with site.connect() as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert site.get("/healthz")[0] == 200


def test_a_port_in_use_is_named_and_a_stopped_server_frees_it(site: Site) -> None:
    other = WebServer(CollectorRegistry(), health=lambda: Answer(True, "ok"), ready=lambda: Answer(True, "ok"))
    with pytest.raises(PortInUseError, match=f"cannot listen on 127.0.0.1:{site.port}"):
        other.start("127.0.0.1", site.port)
    with pytest.raises(PortInUseError, match="no-such-host"):
        other.start("no-such-host.invalid", 0)
    site.server.stop()
    assert other.start("127.0.0.1", site.port) == site.port
    other.stop()
    other.stop()
