"""A real one-process Kafka (KRaft) broker for tests and benchmarks, started from its jars without Docker."""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.bench.local_kafka.doors import MODULES, Certificates, Door, door_properties
from agents.bench.local_kafka.jars import ensure_jars
from pipeline.errors import BrokerUnavailableError

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
STARTED = "Kafka Server started"

# The broker is alone, so any valid id does.
CLUSTER_ID = "RmF1bHRsaW5lVGVzdHMwMA"

# When users are given, the broker too has to log in to itself.
BROKER_USER = "broker"
BROKER_PASSWORD = "broker-secret"

# One broker, little data, nothing created by accident.
DEFAULTS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "log.segment.bytes": str(64 << 20),
    "log.index.size.max.bytes": str(1 << 20),
    # The default of 128 MiB would be a quarter of the heap.
    "log.cleaner.dedupe.buffer.size": str(16 << 20),
    # After a kill, the controller refuses the new process until the old one's session has run out.
    "broker.session.timeout.ms": "6000",
    "broker.heartbeat.interval.ms": "1000",
}

LOG4J = """\
status = error
# Otherwise logging ends before Kafka's own orderly shutdown does.
shutdownHook = disable
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
"""

# Ends the broker and removes its data when Python goes, however it goes: the pipe closes and `cat` returns.
WATCHDOG = 'cat >/dev/null; kill -9 "$1" 2>/dev/null; rm -rf "$2"'


class KafkaBroker:
    """One broker process with its own ports and data folder; `start` is the way to get one."""

    def __init__(
        self,
        jars: Path,
        ports: Sequence[int],
        overrides: Mapping[str, str],
        users: Mapping[str, str] | None,
        doors: Mapping[str, Door],
        classes: Path | None = None,
    ) -> None:
        self.port, self._controller_port, *door_ports = ports
        self._classpath = f"{jars}/*" if classes is None else f"{jars}/*:{classes}"
        self._users = users
        self._doors = doors
        self._door_ports = dict(zip(doors, door_ports, strict=True))
        self._folder = tempfile.TemporaryDirectory(prefix="faultline-kafka-", ignore_cleanup_errors=True)
        self.data_dir = Path(self._folder.name)
        self.log_path = self.data_dir / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self.certificates: Certificates | None = None
        if any("SSL" in door.protocol for door in doors.values()):
            self.certificates = Certificates(self.data_dir / "certificates", HOST)
        self._write_configuration(overrides)

    @classmethod
    def start(
        cls,
        jars_dir: Path | None = None,
        *,
        version: str | None = None,
        classes: Path | None = None,
        overrides: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        doors: Mapping[str, Door] | None = None,
        port: int | None = None,
        timeout_s: float = START_TIMEOUT_S,
    ) -> KafkaBroker:
        """Starts a broker and returns once it takes requests.

        `version` is that of Kafka, the pom's if not given, and `classes` a folder of further Java classes. `overrides`
        are added to server.properties; `users` (name to password) makes clients log in (SASL/PLAIN, no TLS). `doors`
        are further listeners, by lower-case name, for the same users; `address` says where they are.
        """
        jars = ensure_jars(jars_dir, version)
        doors = doors or {}
        free_port, *others = free_ports(2 + len(doors))
        broker = cls(jars, (port or free_port, *others), overrides or {}, users, doors, classes)
        try:
            broker._format()
            broker._launch(timeout_s)
        except BaseException:
            broker.close()
            raise
        return broker

    @property
    def bootstrap(self) -> str:
        """The address for clients."""
        return f"{HOST}:{self.port}"

    def address(self, door: str) -> str:
        """The address for clients that come in by this door."""
        return f"{HOST}:{self._door_ports[door]}"

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def client_security(self, user: str) -> dict[str, str]:
        """kafka-python's settings to log in as one of the users given to `start`."""
        if self._users is None:
            raise ValueError("this broker was started without users")
        return {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": user,
            "sasl_plain_password": self._users[user],
        }

    def stop(self, timeout_s: float = 20.0) -> None:
        """Shuts the broker down in order and keeps its data; harmless if it does not run."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """Ends the process at once, as a crash would, and keeps its data.

        The next start then takes `broker.session.timeout.ms` longer; a test that kills may shorten that.
        """
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Starts again on the same port and data, after an orderly stop if the broker still runs."""
        self.stop()
        self._launch(timeout_s)

    def close(self) -> None:
        """Stops the broker and removes its data."""
        self.stop()
        self._folder.cleanup()

    def __enter__(self) -> KafkaBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log_tail(self, lines: int = 40) -> str:
        """The end of the broker's log."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _write_configuration(self, overrides: Mapping[str, str]) -> None:
        protocols = {"CLIENT": "PLAINTEXT" if self._users is None else "SASL_PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        protocols |= {name.upper(): door.protocol for name, door in self._doors.items()}
        clients = [f"CLIENT://{HOST}:{self.port}"]
        clients += [f"{name.upper()}://{HOST}:{port}" for name, port in self._door_ports.items()]
        properties = {
            **DEFAULTS,
            "listeners": ",".join([*clients, f"CONTROLLER://{HOST}:{self._controller_port}"]),
            "advertised.listeners": ",".join(clients),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@{HOST}:{self._controller_port}",
            "log.dirs": str(self.data_dir / "data"),
        }
        if self._users is not None:
            accounts = {**self._users, BROKER_USER: BROKER_PASSWORD}
            listed = " ".join(f'user_{name}="{password}"' for name, password in accounts.items())
            login = f'{MODULES["PLAIN"]} required username="{BROKER_USER}" password="{BROKER_PASSWORD}" {listed};'
            plain = ["client", *(name for name, door in self._doors.items() if door.mechanism == "PLAIN")]
            properties |= {
                "sasl.enabled.mechanisms": "PLAIN",
                "sasl.mechanism.inter.broker.protocol": "PLAIN",
                **{f"listener.name.{name}.plain.sasl.jaas.config": login for name in plain},
                # So that an authorizer, if one is set by the caller, lets the broker itself work.
                "super.users": f"User:{BROKER_USER};User:ANONYMOUS",
            }
        properties |= door_properties(self._doors, self.certificates)
        properties |= overrides
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        (self.data_dir / "server.properties").write_text(text, encoding="utf-8")
        (self.data_dir / "log4j2.properties").write_text(LOG4J, encoding="utf-8")

    def _java(self, main: str, *arguments: str) -> list[str]:
        return [
            "java",
            "-Xms128m",
            "-Xmx512m",
            f"-Dlog4j2.configurationFile={self.data_dir / 'log4j2.properties'}",
            "-cp",
            self._classpath,
            main,
            *arguments,
        ]

    def _require_port(self) -> None:
        if not is_free(self.port):
            raise BrokerUnavailableError(f"port {self.port} is taken: stop what listens there or choose another")

    def _format(self) -> None:
        self._require_port()
        config = str(self.data_dir / "server.properties")
        mechanisms = {door.mechanism for door in self._doors.values() if door.mechanism not in (None, "PLAIN")}
        accounts = [
            f"{mechanism}=[name={name},password={password}]"
            for mechanism in mechanisms
            for name, password in (self._users or {}).items()
        ]
        scram = [part for account in accounts for part in ("--add-scram", account)]
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", config, *scram),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise BrokerUnavailableError(f"Kafka could not format its data folder:\n{done.stdout[-4000:]}")

    def _launch(self, timeout_s: float) -> None:
        self._require_port()
        began = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal reaches Python alone, which then stops the broker.
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self.data_dir / "server.properties")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(
            ["sh", "-c", WATCHDOG, "sh", str(self._process.pid), str(self.data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + timeout_s
        while not self._has_logged(STARTED, began):
            if not self.running:
                problem = f"Kafka ended with code {self._process.returncode} while starting"
            elif time.monotonic() > deadline:
                problem = f"Kafka did not start in {timeout_s:.0f} s"
            else:
                time.sleep(0.05)
                continue
            self.kill()
            raise BrokerUnavailableError(f"{problem}; the end of its log:\n{self.log_tail()}")

    def _has_logged(self, text: str, since: int) -> bool:
        with self.log_path.open("rb") as log:
            log.seek(since)
            return text.encode() in log.read()


def is_free(port: int) -> bool:
    """Whether a broker could listen on this port."""
    with socket.socket() as probe:
        # As Kafka's own listener: connections of a former broker that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    # Below the ephemeral range (32768 up on Linux): while a broker is down between kill and restart, a client
    # that keeps connecting to an ephemeral local port can be given that very port and be connected to itself.
    free: list[int] = []
    while len(free) < count:
        port = random.randrange(20000, 32000)
        if port not in free and is_free(port):
            free.append(port)
    return free


def main(arguments: list[str] | None = None) -> int:
    """Runs a broker in the foreground until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m agents.bench.local_kafka.broker", description=main.__doc__)
    parser.add_argument("--port", type=int, default=9092, help="port for clients (default: 9092)")
    parser.add_argument("--kafka", metavar="VERSION", help="version of Kafka (default: the one in kafka-pom.xml)")
    chosen = parser.parse_args(arguments)
    # A supervisor's SIGTERM should stop the broker as orderly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with KafkaBroker.start(port=chosen.port, version=chosen.kafka) as broker:
            print(broker.bootstrap, flush=True)
            while broker.running:
                time.sleep(0.5)
            print(f"Kafka ended by itself; the end of its log:\n{broker.log_tail()}", file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        return 0
    except BrokerUnavailableError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
