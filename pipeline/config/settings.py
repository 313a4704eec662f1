"""Every setting of a worker in one typed class, read from the environment with the prefix FAULTLINE_."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.config.environment import PREFIX, environment_problems
from pipeline.config.quantities.durations import parse_milliseconds
from pipeline.errors import SettingsError

Milliseconds = Annotated[int, BeforeValidator(parse_milliseconds), Field(gt=0)]

_URL = re.compile(r"https?://[A-Za-z0-9_.\[\]:-]+(/[A-Za-z0-9_./~-]*)?")
_BROKER = re.compile(r"(memory|kafka)://([A-Za-z0-9_.:,\[\]-]+)")


class Settings(BaseSettings):
    """Settings of workers and commands; each is also an environment variable, `broker` being FAULTLINE_BROKER."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    broker: str = Field(
        default="kafka://127.0.0.1:9092", description="kafka://host:port[,host:port...] or memory://name"
    )
    topic_prefix: str = Field(default="faultline.", pattern=r"^[A-Za-z0-9._-]*$", description="before every topic name")
    group: str = Field(default="faultline", pattern=r"^[A-Za-z0-9._-]+$", description="consumer group of the workers")
    partitions: int = Field(
        default=4, ge=1, le=10_000, description="partitions of every topic, when topics are created"
    )
    replication: int = Field(default=1, ge=1, le=32_767, description="replicas of every topic, when topics are created")
    retention_bytes: int = Field(
        default=2**30,
        ge=2**20,
        description="size of every partition, when topics are created; the oldest records go first",
    )
    profile: str = Field(default="tennessee_eastman", description="a shipped plant profile's name, or a file")
    model: Path | None = Field(default=None, description="model file; the shipped one if unset")
    area_model: str = Field(
        default="log_odds", description="what names the causes in areas: a rule's name, or a model file"
    )
    area_patience_ms: Milliseconds = Field(
        default=60_000, description="how long an area waits for a worker that says nothing any more"
    )
    chunk_records: int = Field(default=4096, ge=1, description="records that are processed at once, at most")
    commit_interval_ms: Milliseconds = Field(default=1_000, description="how often offsets are committed")
    checkpoint_interval_ms: Milliseconds = Field(
        default=2_000, description="how often states are saved and inputs acknowledged"
    )
    checkpoint_records: int = Field(
        default=131_072, ge=1, description="records after which states are saved earlier than that"
    )
    state_refused: Literal["fresh", "warm_up"] = Field(
        default="fresh",
        description="a machine whose saved state belongs to another model or profile starts from a fresh state, or "
        "reads its last frames again",
    )
    warm_up_frames: int = Field(default=100, ge=1, description="how many frames it reads again")
    session_timeout_ms: Milliseconds = Field(
        default=10_000, description="silence after which the broker gives a worker's partitions to others"
    )
    group_instance_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="a name that stays over restarts: restarting within the session timeout then moves no partitions",
    )
    stall_timeout_ms: Milliseconds = Field(
        default=60_000, description="time without progress, though there are records to read, after which a worker ends"
    )
    start_timeout_ms: Milliseconds = Field(
        default=180_000, description="time that connecting may take, and as much that joining the group may take"
    )
    stop_timeout_ms: Milliseconds = Field(
        default=10_000, description="time that stopping may take, after which the process ends as it is"
    )
    future_limit_ms: Milliseconds = Field(
        default=3_600_000,
        description="how far ahead of this worker's clock a record's time stamp may be",
    )
    tick_interval_ms: Milliseconds = Field(
        default=5_000, description="how often quiet partitions are told that time passes"
    )
    metrics_interval_ms: Milliseconds = Field(
        default=28_800_000, description="event time that one fusion metric covers"
    )
    alarm_frames: int = Field(default=5, ge=1, description="how many recent frames an alarm looks at")
    alarm_agree: int = Field(default=3, ge=1, description="how many of them must name the same fault")
    alarm_confidence: float = Field(
        default=0.5, ge=0, le=1, description="confidence below which a fault does not count"
    )
    drift: bool = Field(default=True, description="whether drift of readings and answers is reported")
    drift_window_ms: Milliseconds = Field(
        default=86_400_000, description="plant time whose means are compared with the reference"
    )
    drift_reference_windows: int = Field(
        default=7, ge=3, le=1_000, description="how many of a machine's first windows are its reference"
    )
    drift_limit: float = Field(
        default=0.5,
        gt=0,
        le=10,
        description="what the excess of a variable's level or spread must sum up to, at least, to be drift; in the "
        "training's standard deviations",
    )
    drift_reference: Literal["own", "training"] = Field(
        default="own",
        description="whether levels are compared with the machine's first windows, or with the training's mean",
    )
    web_host: str = Field(default="127.0.0.1", description="where /metrics, /healthz and /readyz listen")
    web_port: int = Field(default=9464, ge=0, le=65_535, description="0 takes a free port")
    console_web_host: str = Field(
        default="127.0.0.1", description="where `faultline console` listens; elsewhere it needs a login"
    )
    console_web_port: int = Field(default=9480, ge=0, le=65_535, description="0 takes a free port")
    console_names: str | None = Field(
        default=None, description="host names by which browsers come to the console, with commas between them"
    )
    console_user: str | None = Field(
        default=None, description="whose name the console's actions have if nobody logs in; else the process's user"
    )
    console_token_file: Path | None = Field(
        default=None, description="file with a line name:token for each person who may use the console"
    )
    console_user_header: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="header in which a proxy that logs people in gives the name, such as X-Forwarded-User",
    )
    console_trusted_proxies: str | None = Field(
        default=None, description="addresses or networks of such proxies, with commas between them"
    )
    console_certificate: Path | None = Field(
        default=None, description="PEM certificate with which the console serves TLS"
    )
    console_key: Path | None = Field(default=None, description="its key, if that is not in the same file")
    console_session_ms: Milliseconds = Field(
        default=12 * 3_600_000, description="how long a login at the console lasts"
    )
    console_time_zone: str | None = Field(
        default=None, description="time zone that the console shows times in, such as Europe/Berlin; else the browser's"
    )
    console_read_only: bool = Field(default=False, description="whether the console only shows")
    console_history_ms: Milliseconds = Field(
        default=8 * 3_600_000, description="how far back the console reads diagnoses when it starts"
    )
    threads: int = Field(default=1, ge=1, description="threads that training and evaluation may use")
    cache_dir: Path | None = Field(
        default=None, description="folder that keeps the compiled step between starts; else in the user's cache folder"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="SSL encrypts, SASL logs in"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="how to log in; PLAIN only together with TLS"
    )
    sasl_username: str | None = Field(default=None, description="name to log in with")
    sasl_password: SecretStr | None = Field(default=None, description="password to log in with")
    sasl_password_file: Path | None = Field(default=None, description="file with the password, instead of it")
    ssl_cafile: Path | None = Field(
        default=None, description="certificate authority that signed the broker's certificate; else the system's"
    )
    ssl_check_hostname: bool = Field(default=True, description="whether that certificate must name the broker's host")
    ssl_certfile: Path | None = Field(default=None, description="certificate to show to the broker (mutual TLS)")
    ssl_keyfile: Path | None = Field(default=None, description="its key, if that is not in the same file")
    ssl_key_password: SecretStr | None = Field(default=None, description="password of the key")
    ssl_key_password_file: Path | None = Field(default=None, description="file with that password, instead of it")

    schema_registry: str | None = Field(
        default=None, description="http(s)://host:port of the schema registry, for topics whose form is Avro"
    )
    schema_registry_username: str | None = Field(default=None, description="name to log in with there")
    schema_registry_password: SecretStr | None = Field(default=None, description="password to log in with there")
    schema_registry_password_file: Path | None = Field(default=None, description="file with it, instead of it")
    mqtt_client_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="name under which the MQTT broker keeps what ingest has not read yet; group-ingest if unset",
    )
    mqtt_session_expiry_ms: Milliseconds = Field(
        default=7 * 86_400_000, description="how long the MQTT broker keeps it while ingest is away"
    )
    mqtt_username: str | None = Field(default=None, description="name to log in with at the MQTT broker")
    mqtt_password: SecretStr | None = Field(default=None, description="password to log in with there")
    mqtt_password_file: Path | None = Field(default=None, description="file with that password, instead of it")
    mqtt_cafile: Path | None = Field(
        default=None, description="certificate authority that signed the MQTT broker's certificate; else the system's"
    )
    mqtt_certfile: Path | None = Field(
        default=None, description="certificate to show to the MQTT broker, with its key in the same file"
    )

    notify_url: SecretStr | None = Field(
        default=None, description="http(s)://host/path that `faultline notify` posts alarms to"
    )
    notify_url_file: Path | None = Field(default=None, description="file with it, instead of it")
    notify_secret: SecretStr | None = Field(default=None, description="what notifications are signed with")
    notify_secret_file: Path | None = Field(default=None, description="file with it, instead of it")
    notify_token: SecretStr | None = Field(default=None, description="bearer token to post with")
    notify_token_file: Path | None = Field(default=None, description="file with it, instead of it")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if "@" in self.broker:  # which is not repeated here: what stands before it may be a password
            raise ValueError(
                "FAULTLINE_BROKER holds an '@'; a login belongs in FAULTLINE_SASL_USERNAME and "
                "FAULTLINE_SASL_PASSWORD_FILE"
            )
        if _BROKER.fullmatch(self.broker) is None:
            raise ValueError(f"FAULTLINE_BROKER {self.broker!r} is neither kafka://host:port nor memory://name")
        if self.alarm_agree > self.alarm_frames:
            raise ValueError(
                f"FAULTLINE_ALARM_AGREE {self.alarm_agree} is more than FAULTLINE_ALARM_FRAMES {self.alarm_frames}; "
                "lower it, or raise the other"
            )
        if (url := self.schema_registry) is not None:
            if "@" in url:  # as in broker
                raise ValueError(
                    "FAULTLINE_SCHEMA_REGISTRY holds an '@'; a login belongs in FAULTLINE_SCHEMA_REGISTRY_USERNAME and "
                    "FAULTLINE_SCHEMA_REGISTRY_PASSWORD_FILE"
                )
            if _URL.fullmatch(url) is None:
                raise ValueError(
                    f"FAULTLINE_SCHEMA_REGISTRY {url!r} is not of the form http://host:port or https://host:port"
                )
        self._check_logins()
        self._check_protocol()
        self._check_console()
        return self

    def _check_console(self) -> None:
        """Of a proxy both its header and its address, and no key without a certificate."""
        if (self.console_user_header is None) != (self.console_trusted_proxies is None):
            raise ValueError(
                "FAULTLINE_CONSOLE_USER_HEADER and FAULTLINE_CONSOLE_TRUSTED_PROXIES belong together: a header that "
                "anybody may send names nobody; set both, or unset both"
            )
        if self.console_key is not None and self.console_certificate is None:
            raise ValueError(
                "FAULTLINE_CONSOLE_KEY is set, but FAULTLINE_CONSOLE_CERTIFICATE is not; set it, or unset this"
            )

    def _check_logins(self) -> None:
        """Of each login the name and one form of the password, and nothing that has no use."""
        for login in ("sasl", "schema_registry", "mqtt"):
            username, password, file = (
                getattr(self, f"{login}_{part}") for part in ("username", "password", "password_file")
            )
            name = f"{PREFIX}{login.upper()}"
            _require_one_form(f"{name}_PASSWORD", password, file)
            if username is None and (password is not None or file is not None) and login != "sasl":
                raise ValueError(f"{name}_PASSWORD is set without {name}_USERNAME; set that too, or unset both")
        if self.schema_registry is None:
            self._refuse_unused(
                ("schema_registry_username", "schema_registry_password", "schema_registry_password_file"),
                "FAULTLINE_SCHEMA_REGISTRY is not; set it, or unset this",
            )
        _require_one_form(f"{PREFIX}SSL_KEY_PASSWORD", self.ssl_key_password, self.ssl_key_password_file)
        for name in ("notify_url", "notify_secret", "notify_token"):
            _require_one_form(f"{PREFIX}{name.upper()}", getattr(self, name), getattr(self, f"{name}_file"))

    def _check_protocol(self) -> None:
        """Whether the protocol does all that the settings of security ask for."""
        protocol = self.security_protocol
        if protocol.startswith("SASL"):
            if self.sasl_username is None or (self.sasl_password, self.sasl_password_file) == (None, None):
                raise ValueError(
                    f"FAULTLINE_SECURITY_PROTOCOL {protocol} needs FAULTLINE_SASL_USERNAME and "
                    "FAULTLINE_SASL_PASSWORD_FILE or FAULTLINE_SASL_PASSWORD; set them"
                )
        else:
            self._refuse_unused(
                ("sasl_username", "sasl_password", "sasl_password_file", "sasl_mechanism"),
                f"FAULTLINE_SECURITY_PROTOCOL {protocol} does not log in; set it to SASL_SSL, or unset this",
            )
        if "SSL" not in protocol:
            self._refuse_unused(
                (
                    "ssl_cafile",
                    "ssl_certfile",
                    "ssl_keyfile",
                    "ssl_key_password",
                    "ssl_key_password_file",
                    "ssl_check_hostname",
                ),
                f"FAULTLINE_SECURITY_PROTOCOL {protocol} does not encrypt; set it to SSL or SASL_SSL, or unset this",
            )
        elif self.ssl_certfile is None:
            self._refuse_unused(
                ("ssl_keyfile", "ssl_key_password", "ssl_key_password_file"),
                "FAULTLINE_SSL_CERTFILE, the certificate that it belongs to, is not; set it, or unset this",
            )

    def _refuse_unused(self, names: Sequence[str], reason: str) -> None:
        """Raise ValueError if any of these has been given a value, which would have no effect."""
        for name in names:
            if name in self.model_fields_set and getattr(self, name) is not None:
                raise ValueError(f"{PREFIX}{name.upper()} is set, but {reason}")

    @property
    def of_ingest(self) -> Self:
        """The same settings with the consumer group of `faultline ingest`."""
        return self.model_copy(update={"group": f"{self.group}-ingest"})

    @property
    def of_plant(self) -> Self:
        """The same settings with the consumer group of `faultline plant`."""
        return self.model_copy(update={"group": f"{self.group}-plant"})

    @property
    def is_memory(self) -> bool:
        """Whether the in-memory transport carries the topics."""
        return self.broker.startswith("memory://")

    @property
    def address(self) -> str:
        """The broker's address without the scheme."""
        return self.broker.split("://", 1)[1]


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, with overrides; raises SettingsError naming each wrong setting."""
    check_environment()
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            problems.append(_in_words(name, message, problem["input"]) if name else message)
        raise SettingsError("; ".join(problems)) from None


def check_environment() -> None:
    """Raise SettingsError if a variable with the prefix FAULTLINE_ is unknown, empty, or has blanks around it."""
    secrets = [name for name, field in Settings.model_fields.items() if field.annotation == SecretStr | None]
    if problems := environment_problems(os.environ, Settings.model_fields.keys(), secrets):
        raise SettingsError("; ".join(problems))


def _in_words(name: str, message: str, given: object) -> str:
    """What is wrong with one setting, its value unless that is secret, and what it means."""
    field = Settings.model_fields.get(name)
    if field is None:
        return f"{name}: {message}"
    value = "" if field.annotation == SecretStr | None or not isinstance(given, str | int | float) else f" {given!r}"
    meaning = f" ({field.description})" if field.description else ""
    return f"{PREFIX}{name.upper()}{value[:200]}: {message}{meaning}"


def _require_one_form(name: str, password: SecretStr | None, file: Path | None) -> None:
    if password is not None and file is not None:
        raise ValueError(f"{name} and {name}_FILE are both set; unset one of them")
