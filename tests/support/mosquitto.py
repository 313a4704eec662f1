"""A real MQTT broker, Debian's Mosquitto, and a publisher that knows what the broker has acknowledged."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agents.bench.local_kafka.doors import Certificates

USERNAME, PASSWORD = "faultline", "mqtt-never-shown"

_CONFIG = """
listener {port} 127.0.0.1
persistence true
persistence_location {folder}/
user root
max_inflight_messages 1000
max_queued_messages 0
{access}
"""


def mosquitto_or_skip() -> str:
    """The broker's program; skips, or fails where it is required."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        text = "mosquitto is missing; Debian's package mosquitto has it"
        if os.environ.get("FAULTLINE_REQUIRE_KAFKA") == "1":
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    return found


class Mosquitto:
    """One broker; what it has acknowledged survives `stop` and `start`."""

    def __init__(self, folder: Path, *, login: bool = False, tls: Certificates | None = None) -> None:
        self._program = mosquitto_or_skip()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        access = "allow_anonymous true"
        if login:
            passwords = folder / "passwords"
            passwords.write_text(f"{USERNAME}:{PASSWORD}\n")
            passwords.chmod(0o600)
            subprocess.run(["mosquitto_passwd", "-U", passwords], check=True)
            (folder / "acl").write_text(f"user {USERNAME}\ntopic read plant/#\n")
            access = f"allow_anonymous false\npassword_file {passwords}\nacl_file {folder}/acl"
        self._scheme = "mqtt" if tls is None else "mqtts"
        if tls is not None:
            certificate, key = tls.server
            access += f"\ncafile {tls.ca}\ncertfile {certificate}\nkeyfile {key}"
        self._config = folder / "mosquitto.conf"
        self._config.write_text(_CONFIG.format(port=self.port, folder=folder, access=access))
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Begin to listen."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self._config)], stdout=log, stderr=subprocess.STDOUT
            )
        until = time.monotonic() + 20
        while True:
            assert self._process.poll() is None, self._log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < until, self._log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """Write everything down and end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
            self._process = None


@contextmanager
def mosquitto(folder: Path, *, login: bool = False, tls: Certificates | None = None) -> Iterator[Mosquitto]:
    """A broker of the test's own."""
    one = Mosquitto(folder, login=login, tls=tls)
    try:
        yield one
    finally:
        one.stop()


class Publisher:
    """A gateway that publishes at QoS 1, and goes on when its broker comes back."""

    def __init__(self, broker: Mosquitto) -> None:
        self._acknowledged: set[int] = set()
        self._changed = threading.Condition()
        self._client = Client(CallbackAPIVersion.VERSION2, "gateway", protocol=MQTTProtocolVersion.MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_publish = self._note
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def _note(self, _: Client, __: Any, mid: int, reason: Any, properties: Any) -> None:
        with self._changed:
            self._acknowledged.add(mid)
            self._changed.notify_all()

    def publish(self, messages: Iterable[tuple[str, bytes]], *, pause_s: float = 0.0, retain: bool = False) -> None:
        """Return when the broker has acknowledged all."""
        wanted = set()
        for topic, payload in messages:
            wanted.add(self._client.publish(topic, payload, qos=1, retain=retain).mid)
            time.sleep(pause_s)
        with self._changed:
            assert self._changed.wait_for(lambda: wanted <= self._acknowledged, timeout=60)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
