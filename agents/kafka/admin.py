"""Creates and checks the topics on a Kafka broker before a worker starts."""

from __future__ import annotations

import logging
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from typing import Any

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from agents.delivery.topic_logs import TopicLog
from agents.kafka.topic_settings import (
    MAX_MESSAGE_BYTES,
    POLICY,
    CreateReport,
    TopicReport,
    TopicSpec,
    setting_problem,
    settle,
)
from pipeline.errors import (
    AuthorizationError,
    BrokerUnavailableError,
    FaultlineError,
    SettingsError,
    TopicMismatchError,
)

BOOTSTRAP_TIMEOUT_MS = 5_000
REQUEST_TIMEOUT_MS = 5_000
_REFUSED_SETTINGS = (
    kafka_errors.InvalidConfigurationError,
    kafka_errors.InvalidRequestError,
    kafka_errors.PolicyViolationError,
)
LOGIN_ERRORS = (kafka_errors.SaslAuthenticationFailedError, kafka_errors.UnsupportedSaslMechanismError)

Security = Mapping[str, Any]


def create_topics(bootstrap: str, specs: Sequence[TopicSpec], security: Security | None = None) -> CreateReport:
    """Creates the topics that are missing; existing ones are not changed.

    Call `check_topics` afterwards, which reports how existing topics differ. `security` holds kafka-python's
    client settings (security_protocol, sasl_mechanism, ...).
    """
    if not specs:
        return CreateReport((), ())
    created, existing, notes = [], [], {}
    with _admin(bootstrap, security) as admin:
        answers = _create(admin, [(spec, spec.config) for spec in specs])
        for spec in specs:
            error, _ = answers[spec.name]
            if error in _REFUSED_SETTINGS:
                settled = settle(spec, partial(_refuses, admin, spec))
                notes[spec.name] = tuple(settled.notes)
                answers |= _create(admin, [(spec, settled.config)])
            error, message = answers[spec.name]
            if error is kafka_errors.NoError:
                created.append(spec.name)
            elif error is kafka_errors.TopicAlreadyExistsError:
                existing.append(spec.name)
            else:
                raise _refusal(bootstrap, f"create topic {spec.name!r}", error(message))
        # The broker confirms before every partition has a leader; a worker that starts at once would fail.
        admin.wait_for_topics(created, timeout_ms=REQUEST_TIMEOUT_MS)
    return CreateReport(tuple(created), tuple(existing), notes)


def _create(
    admin: KafkaAdminClient, configs: Sequence[tuple[TopicSpec, Mapping[str, str]]], *, validate_only: bool = False
) -> dict[str, tuple[type[kafka_errors.KafkaError], str | None]]:
    """By topic, the broker's error and its message."""
    wanted = {
        spec.name: {
            "num_partitions": spec.partitions,
            "replication_factor": spec.replication,
            "configs": dict(config),
        }
        for spec, config in configs
    }
    answer = admin.create_topics(wanted, timeout_ms=REQUEST_TIMEOUT_MS, raise_errors=False, validate_only=validate_only)
    return {one["name"]: (kafka_errors.for_code(one["error_code"]), one["error_message"]) for one in answer["topics"]}


def _refuses(admin: KafkaAdminClient, spec: TopicSpec, config: Mapping[str, str]) -> str | None:
    error, message = _create(admin, [(spec, config)], validate_only=True)[spec.name]
    return None if error is kafka_errors.NoError else message or error.__name__


def check_topics(bootstrap: str, specs: Sequence[TopicSpec], security: Security | None = None) -> list[str]:
    """The problems of the topics, one sentence each; empty if there are none."""
    return list(examine_topics(bootstrap, specs, security).problems)


def examine_topics(bootstrap: str, specs: Sequence[TopicSpec], security: Security | None = None) -> TopicReport:
    """The problems of the topics, and their limits as far as they were wanted."""
    if not specs:
        return TopicReport((), {})
    with _admin(bootstrap, security) as admin:
        found = {topic["name"]: topic for topic in admin.describe_topics([spec.name for spec in specs])}
        present: list[TopicSpec] = []
        problems: list[str] = []
        for spec in specs:
            topic = found[spec.name]
            error = kafka_errors.for_code(topic["error_code"])
            if error is kafka_errors.UnknownTopicOrPartitionError:
                problems.append(f"topic {spec.name!r} does not exist; it needs {_count(spec.partitions)}")
                continue
            # Metadata that is still settling (no leader yet) already has the true number of partitions.
            if error not in (kafka_errors.NoError, kafka_errors.LeaderNotAvailableError):
                raise _refusal(bootstrap, f"describe topic {spec.name!r}", error())
            partitions = len(topic["partitions"])
            if partitions != spec.partitions:
                problems.append(
                    f"topic {spec.name!r} has {_count(partitions)} but needs {spec.partitions}; "
                    "Faultline never changes this, because keys would move between partitions"
                )
            present.append(spec)
        limits: dict[str, int] = {}
        problems += _setting_problems(admin, bootstrap, present, limits)
    return TopicReport(tuple(problems), limits)


def missing_rights(
    bootstrap: str, topics: Mapping[str, Sequence[str]], group: str | None, security: Security | None = None
) -> list[str]:
    """The rights that this user lacks on topics ("READ", "WRITE" by name) and on a consumer group, one phrase each.

    Brokers that do not report rights, or have no authorizer, count as granting all.
    """
    with _admin(bootstrap, security) as admin:
        missing = []
        for topic in admin.describe_topics(list(topics)):
            granted = topic.get("authorized_operations")
            error = kafka_errors.for_code(topic["error_code"])
            if error is kafka_errors.TopicAuthorizationFailedError:
                granted = []
            if granted is not None:
                wanted = topics[topic["name"]]
                missing += [f"{right.title()} on topic {topic['name']}" for right in wanted if right not in granted]
        granted = None if group is None else _group_rights(admin, group)
        if granted is not None and "READ" not in granted:
            missing.append(f"Read on group {group}")
    return missing


def _group_rights(admin: KafkaAdminClient, group: str) -> Sequence[str] | None:
    until = time.monotonic() + REQUEST_TIMEOUT_MS / 1000
    while True:
        try:
            granted: Sequence[str] | None = admin.describe_groups([group])[group].get("authorized_operations")
            return granted
        except kafka_errors.GroupAuthorizationFailedError:
            return []
        except kafka_errors.KafkaError as error:
            # The first request about any group makes a new broker create its offsets topic.
            if not error.retriable or time.monotonic() > until:
                raise
            time.sleep(0.1)


def partition_counts(
    bootstrap: str,
    names: Sequence[str],
    security: Security | None = None,
    hint: str = "create it with `faultline topics create`",
    optional: Set[str] = frozenset(),
) -> dict[str, int]:
    """How many partitions each topic has, 0 for an `optional` one that does not exist.

    Raises TopicMismatchError, with the hint, or AuthorizationError.
    """
    with _admin(bootstrap, security) as admin:
        found = admin.describe_topics(list(names))
        for topic in found:
            if kafka_errors.for_code(topic["error_code"]) is kafka_errors.TopicAuthorizationFailedError:
                error = kafka_errors.TopicAuthorizationFailedError()
                raise _refusal(bootstrap, f"describe topic {topic['name']!r}", error)
        counts = {topic["name"]: len(topic["partitions"]) for topic in found}
    if missing := [name for name in names if not counts.get(name) and name not in optional]:
        raise TopicMismatchError(f"topic {', '.join(missing)} does not exist at {bootstrap}; {hint}")
    return counts


def topic_logs(bootstrap: str, names: Sequence[str], security: Security | None = None) -> dict[str, TopicLog]:
    """Id and partitions of the topics that exist; raises FaultlineError."""
    with _admin(bootstrap, security) as admin:
        found = admin.describe_topics(list(names))
    logs = {}
    for topic in found:
        error = kafka_errors.for_code(topic["error_code"])
        if error is kafka_errors.TopicAuthorizationFailedError:
            raise _refusal(bootstrap, f"describe topic {topic['name']!r}", error())
        if topic["partitions"]:
            logs[topic["name"]] = TopicLog(_known_id(topic.get("topic_id")), len(topic["partitions"]))
    return logs


def _known_id(topic_id: Any) -> str:
    return "" if topic_id is None or uuid.UUID(str(topic_id)).int == 0 else str(topic_id)


@contextmanager
def translated_errors(bootstrap: str) -> Iterator[None]:
    """Turns kafka-python's errors into Faultline's."""
    try:
        yield
    except kafka_errors.KafkaError as error:
        raise _translated(bootstrap, error, None) from error


def _setting_problems(
    admin: KafkaAdminClient, bootstrap: str, specs: Sequence[TopicSpec], limits: dict[str, int]
) -> list[str]:
    """Topics with the wrong cleanup policy or a maximum message size that is too small; fills in the `limits`."""
    wanted = {
        spec.name: names
        for spec in specs
        if (names := [n for n in (POLICY, MAX_MESSAGE_BYTES) if n in spec.config or (n == POLICY and spec.is_input)])
    }
    if not wanted:
        return []
    # Both are asked for: a broker may not know the limit, and then only an empty description is a refused one.
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, [POLICY, MAX_MESSAGE_BYTES]) for name in wanted]
    # The filter's default would omit settings that have the broker's default, such as "delete".
    settings = admin.describe_configs(resources, config_filter="all")["topic"]
    problems = []
    for spec in specs:
        for name in wanted.get(spec.name, ()):
            # kafka-python drops the error of a refused description and returns an empty one.
            if name not in settings[spec.name]:
                if spec.is_foreign or settings[spec.name]:
                    continue
                error = kafka_errors.TopicAuthorizationFailedError()
                raise _refusal(bootstrap, f"describe the settings of topic {spec.name!r}", error)
            problems += setting_problem(spec, name, settings[spec.name][name]["value"])
            if name == MAX_MESSAGE_BYTES:
                limits[spec.name] = int(settings[spec.name][name]["value"])
    return problems


def _count(partitions: int) -> str:
    return f"{partitions} partition{'' if partitions == 1 else 's'}"


@contextmanager
def _admin(bootstrap: str, security: Security | None) -> Iterator[KafkaAdminClient]:
    # kafka-python logs every failed attempt, at up to ERROR; the one error raised here is enough.
    logger = logging.getLogger("kafka")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    connections: list[_Connections] = []
    clients: list[KafkaNetClient] = []

    def make_client(**settings: Any) -> KafkaNetClient:
        net = NetworkSelector(**settings)
        connections.append(_Connections(net, **settings))
        clients.append(KafkaNetClient(net, connections[-1], **settings))
        return clients[-1]

    addresses = _addresses(bootstrap)
    # A proxy resolves names that this machine cannot.
    if "proxy_url" not in (security or {}):
        addresses = _listening(addresses)
    settings: dict[str, Any] = {
        "bootstrap_servers": addresses,
        "client_id": "faultline-admin",
        "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        "kafka_client": make_client,
    }
    try:
        yield KafkaAdminClient(**settings, **(security or {}))
    except kafka_errors.KafkaError as error:
        cause = connections[-1].failure if connections else None
        raise _translated(bootstrap, error, cause) from error
    finally:
        # The admin client starts a thread before it connects, and cannot be closed if it fails to connect.
        for client in clients:
            client.close()


def _addresses(bootstrap: str) -> list[str]:
    addresses = [address.strip() for address in bootstrap.split(",")]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise SettingsError(f"{address!r} is not a broker address; use host:port, separated by commas")
    return addresses


def _listening(addresses: list[str]) -> list[str]:
    # At an address where nothing listens, kafka-python would retry for the whole timeout, hide the reason and leak
    # a socket per attempt; so it only gets addresses that accept a connection.
    listening, reasons = [], []
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            timeout_s = BOOTSTRAP_TIMEOUT_MS / 1000 / len(addresses)
            socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
        except OSError as error:
            reasons.append(f"{address}: {error.strerror or error}")
        else:
            listening.append(address)
    if not listening:
        raise BrokerUnavailableError(
            f"no Kafka broker listens ({'; '.join(reasons)}); check that it is running and that the address is correct"
        )
    return listening


class _Connections(KafkaConnectionManager):
    """Remembers why a connection failed: kafka-python only logs it, tries again and reports a timeout.

    `kafka.net` is private to kafka-python, checked with 3.0.12; tests/agents/test_private_names.py pins its names.
    """

    failure: BaseException | None = None

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        """As kafka-python's, but a refused login or certificate is final: retrying may lock the account."""
        if self.failure is not None and _is_final(self.failure):
            raise self.failure
        connection = super().get_connection(*args, **kwargs)
        new = connection.broker_version_data is None

        def remember(error: BaseException) -> None:
            if self.failure is not None and _is_final(self.failure):
                return
            # The broker sends its refusal and closes the connection; kafka-python discards what came with the close.
            # So a broker that sent its version and then closed the connection has most likely refused the login.
            answered = new and connection.broker_version_data is not None
            if answered and connection.sasl_enabled and isinstance(error, kafka_errors.KafkaConnectionError):
                error = kafka_errors.SaslAuthenticationFailedError("the broker closed the connection at the login")
            self.failure = error

        connection.init_future.add_errback(remember)
        return connection


def _is_final(error: BaseException) -> bool:
    return isinstance(error, LOGIN_ERRORS) or _tls_problem(error) is not None


def _tls_problem(error: BaseException | None) -> str | None:
    # kafka-python wraps OpenSSL's errors in its own and keeps only their text.
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl.c")[0] or text
        if "mismatch" in reason:
            return (
                f"the broker's certificate is for another host: {reason.rstrip('.')}; use the name in the certificate"
            )
        return (
            f"the broker's certificate is not trusted: {reason}; "
            "FAULTLINE_SSL_CAFILE must contain the CA that signed it"
        )
    if "ALERT" in text and ("CERT" in text or "UNKNOWN_CA" in text):
        return "it rejects this client's certificate; check FAULTLINE_SSL_CERTFILE and FAULTLINE_SSL_KEYFILE"
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return "this port does not use TLS; check FAULTLINE_SECURITY_PROTOCOL and the port"
    return None


def _translated(bootstrap: str, error: kafka_errors.KafkaError, cause: BaseException | None) -> FaultlineError:
    if (problem := _tls_problem(cause) or _tls_problem(error)) is not None:
        return AuthorizationError(f"no TLS with the Kafka broker at {bootstrap}: {problem}")
    if isinstance(error, LOGIN_ERRORS):
        return AuthorizationError(
            f"the Kafka broker at {bootstrap} refuses the login: {error}; check FAULTLINE_SASL_MECHANISM, "
            "FAULTLINE_SASL_USERNAME and FAULTLINE_SASL_PASSWORD"
        )
    if isinstance(error, kafka_errors.KafkaConfigurationError):
        return SettingsError(f"kafka-python does not accept the security settings: {error}")
    if error.retriable:
        return BrokerUnavailableError(
            f"the Kafka broker at {bootstrap} does not answer: {cause or error}; "
            "check that it is running, the address, and whether it requires TLS or a login"
        )
    return FaultlineError(f"the Kafka broker at {bootstrap} refuses a request: {error}")


def _refusal(bootstrap: str, action: str, error: kafka_errors.KafkaError) -> FaultlineError:
    text = f"the Kafka broker at {bootstrap} refuses to {action}: {error}"
    if isinstance(error, kafka_errors.AuthorizationError):
        return AuthorizationError(f"{text}; grant this user the right to do so")
    if error.retriable:
        return BrokerUnavailableError(f"{text}; try again")
    return TopicMismatchError(text)
