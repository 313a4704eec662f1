"""Schema registries for tests: a small one of our own over HTTP, and Apicurio's real one from Maven."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agents.bench.local_kafka.jars import default_jars_dir
from tests.support.kafka_fixtures import skip_or_fail

APICURIO_VERSION = "3.0.9"
"""The newest that runs on Java 17, as the broker does."""
_ARTIFACT = f"io.apicurio:apicurio-registry-app:{APICURIO_VERSION}:tar.gz:all"
_START_SECONDS = 90.0
_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"


class SmallRegistry:
    """Schemas by number and by subject, as Confluent's interface gives them; `answers` come first, one a request."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[str, dict[str, Any]] = {}
        self.answers: list[tuple[int, bytes]] = []
        self.login: str | None = None
        self.asked: list[str] = []
        self.url = ""

    def add(self, number: int, schema: Any, **others: Any) -> None:
        """A schema, with `references` or a `schemaType` if need be."""
        self.schemas[number] = {"schema": json.dumps(schema)} | others

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        self.asked.append(path)
        if self.answers:
            return self.answers.pop(0)
        if self.login is not None and authorization != "Basic " + base64.b64encode(self.login.encode()).decode():
            return 401, b'{"error_code": 401}'
        parts = path.strip("/").split("/")
        found = self.subjects.get(parts[1]) if parts[0] == "subjects" else self.schemas.get(int(parts[-1]))
        return (404, b'{"error_code": 40403}') if found is None else (200, json.dumps(found).encode())


@contextmanager
def small_registry() -> Iterator[SmallRegistry]:
    """A registry of our own that listens on a free port."""
    registry = SmallRegistry()

    class Handler(BaseHTTPRequestHandler):
        """One request."""

        def do_GET(self) -> None:
            status, body = registry.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Type", _CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
            """Requests are counted, not printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def register(url: str, subject: str, schema: Any, references: list[dict[str, Any]] | None = None) -> int:
    """Register an Avro schema as a producer does; its number."""
    body = {"schema": json.dumps(schema), "references": references or []}
    request = urllib.request.Request(
        f"{url}/subjects/{subject}/versions", json.dumps(body).encode(), {"Content-Type": _CONTENT_TYPE}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        number: int = json.load(response)["id"]
    return number


@contextmanager
def apicurio(scratch: Path) -> Iterator[str]:
    """The address of Apicurio's registry, started from Maven's file; the test is skipped where that cannot be had."""
    if shutil.which("java") is None or shutil.which("mvn") is None:
        skip_or_fail("java or mvn is not installed, so there is no Apicurio registry")
    folder = _unpacked()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (jar,) = folder.glob("*runner.jar")
    options = ["-Xmx512m", "-XX:TieredStopAtLevel=1", "-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}"]
    with (scratch / "registry.log").open("wb") as log:
        process = subprocess.Popen(["java", *options, "-jar", jar], cwd=scratch, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    try:
        _wait_for(f"{url}/subjects", process, scratch / "registry.log")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def _unpacked() -> Path:
    """The folder with Apicurio's jars, fetched with Maven the first time."""
    folder = default_jars_dir().parent / f"apicurio-{APICURIO_VERSION}"
    if any(folder.glob("*runner.jar")):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={_ARTIFACT}", f"-DoutputDirectory={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    files = list(folder.glob("*.tar.gz"))
    if done.returncode != 0 or not files:
        skip_or_fail(f"Maven could not fetch Apicurio's registry: {done.stdout[-500:]}")
    with tarfile.open(files[0]) as archive:
        archive.extractall(folder, filter="data")
    files[0].unlink()
    return folder


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"Apicurio's registry did not start:\n{log.read_text(errors='replace')[-2000:]}")
