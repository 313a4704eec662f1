"""A broker with guarded doors, the users that come in by them, and the settings that these would make."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.bench.local_kafka.broker import BROKER_USER, KafkaBroker
from agents.bench.local_kafka.doors import AUTHORIZER, Door
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.wire.recording import RecordingWriter
from tests.support.builders import ONE_SOURCE, reading
from tests.support.kafka_rights import Rights, documented_rights

DOORS = {
    "login": Door("SASL_PLAINTEXT", "SCRAM-SHA-512"),
    "scram": Door("SASL_SSL", "SCRAM-SHA-256"),
    "plain": Door("SASL_SSL", "PLAIN"),
    "tls": Door("SSL"),
    "mutual": Door("SSL", client_certificate=True),
}
ROLES = ("admin", "worker", "ingest", "plant", "areas", "recorder", "reader", "operator", "notify", "console")
OPERATOR = "operator"  # may do everything
OUTSIDER = "outsider"  # may log in, and nothing else
USERS = {name: f"{name}-never-shown" for name in (OPERATOR, OUTSIDER, *(f"faultline-{role}" for role in ROLES))}
KEY_PASSWORD = "key-never-shown"
NEVER_SHOWN = "never-shown"
PARTITIONS = 2
READINGS = 60


class Site:
    """The guarded broker, and settings for whoever comes in by one of its doors."""

    def __init__(self, broker: KafkaBroker, folder: Path) -> None:
        assert broker.certificates is not None
        self.broker = broker
        self.certificates = broker.certificates
        self.rights = Rights(broker)
        self.folder = folder
        self.profile_file = folder / "plant.yaml"
        self.profile_file.write_text(ONE_SOURCE)
        self._seconds = itertools.count()
        self.recording = self.next_recording()
        self.operator_files = self.certificates.client(OPERATOR, key_password=KEY_PASSWORD)
        self.strange_files = self.certificates.client("stranger", of_other_ca=True)

    def environment(
        self, door: str, user: str = OPERATOR, prefix: str = "faultline.", **more: object
    ) -> dict[str, str]:
        """What an operator would set; passwords come from files."""
        kind = DOORS[door]
        values: dict[str, object] = {
            "broker": f"kafka://{self.broker.address(door)}",
            "topic_prefix": prefix,
            "profile": self.profile_file,
            "partitions": PARTITIONS,
            "web_port": 0,
            "log_level": "debug",
            "checkpoint_interval_ms": "100ms",
            "commit_interval_ms": "100ms",
            "tick_interval_ms": "500ms",
            "session_timeout_ms": "6s",
            "security_protocol": kind.protocol,
        }
        if kind.mechanism is not None:
            values |= {"sasl_mechanism": kind.mechanism, "sasl_username": user}
            values["sasl_password_file"] = self.secret_file(user, USERS[user])
        if "SSL" in kind.protocol:
            values["ssl_cafile"] = self.certificates.ca
        if kind.client_certificate:
            values |= {"ssl_certfile": self.operator_files[0], "ssl_keyfile": self.operator_files[1]}
            values["ssl_key_password_file"] = self.secret_file("key", KEY_PASSWORD)
        values |= more
        return {f"FAULTLINE_{name.upper()}": str(value) for name, value in values.items() if value is not None}

    def next_recording(self) -> Path:
        """A minute of a machine, following on the last one."""
        path = self.folder / f"{next(self._seconds)}.parquet"
        with RecordingWriter(path) as tape:
            for second in itertools.islice(self._seconds, READINGS):
                tape.write([reading("pump-1", 1_700_000_000_000 + 1000 * second, [1.0, 2.0])])
        return path

    def secret_file(self, name: str, secret: str) -> Path:
        file = self.folder / f"{name}.secret"
        file.write_text(f"{secret}\n")
        return file

    def settings(self, door: str, user: str = OPERATOR, prefix: str = "faultline.", **more: object) -> Settings:
        environment = self.environment(door, user, prefix, **more)
        return load_settings(**{name.removeprefix("FAULTLINE_").lower(): text for name, text in environment.items()})

    @property
    def plant(self) -> PlantProfile:
        return load_profile(str(self.profile_file))


@contextmanager
def guarded_site(folder: Path) -> Iterator[Site]:
    """One broker with every door; an authorizer grants what docs/operations/security.md says and nothing else."""
    overrides = {
        "authorizer.class.name": AUTHORIZER,
        # Who comes in by the door `tls` has no name.
        "super.users": ";".join(f"User:{name}" for name in (BROKER_USER, "ANONYMOUS", OPERATOR, f"CN={OPERATOR}")),
    }
    with KafkaBroker.start(users=USERS, doors=DOORS, overrides=overrides) as broker:
        made = Site(broker, folder)
        made.rights.give(documented_rights())
        try:
            yield made
        finally:
            made.rights.close()
