"""Credentials and encryption in the forms of kafka-python, aiokafka and Faust, and the rights that a worker needs."""

from __future__ import annotations

import ssl
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from agents.kafka.admin import missing_rights
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import (
    ALARMS,
    AREAS,
    CONTROL,
    DEAD_LETTER,
    DIAGNOSES,
    DRIFT,
    INCIDENTS,
    LATE,
    METRICS,
    PLANT,
    PLANT_STATE,
    STATE,
    all_topics,
    full_topic_name,
    ingest_outputs,
    ingest_topics,
    input_topics,
)
from pipeline.errors import AuthorizationError, SettingsError


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context of the settings; None without TLS. Raises SettingsError if a certificate or key is unusable."""
    if "SSL" not in settings.security_protocol:
        return None
    cafile, certfile, keyfile = settings.ssl_cafile, settings.ssl_certfile, settings.ssl_keyfile
    try:
        context = ssl.create_default_context(cafile=None if cafile is None else str(cafile))
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"FAULTLINE_SSL_CAFILE {cafile}: {_reason(error)}; it must be a PEM certificate") from error
    context.check_hostname = settings.ssl_check_hostname
    if certfile is not None:
        password = secret("SSL_KEY_PASSWORD", settings.ssl_key_password, settings.ssl_key_password_file)
        try:
            # Without a password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(certfile, keyfile, password=password or "")
        except OSError as error:
            raise SettingsError(
                f"FAULTLINE_SSL_CERTFILE {certfile}, FAULTLINE_SSL_KEYFILE {keyfile or certfile}: {_reason(error)}; "
                "check that both are PEM, that they match, and that FAULTLINE_SSL_KEY_PASSWORD is correct"
            ) from error
    return context


def client_security(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for kafka-python's and aiokafka's clients; empty without security. Raises SettingsError."""
    if settings.security_protocol == "PLAINTEXT":
        return {}
    arguments: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if (context := ssl_context(settings)) is not None:
        arguments["ssl_context"] = context
    if settings.security_protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = settings.sasl_mechanism
        arguments["sasl_plain_username"] = settings.sasl_username
        arguments["sasl_plain_password"] = _sasl_password(settings)
    return arguments


def faust_credentials(settings: Settings) -> Any:
    """Credentials for a Faust app; None without security. Raises SettingsError."""
    import faust

    context = ssl_context(settings)
    if settings.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=_sasl_password(settings),
            ssl_context=context,
            mechanism=settings.sasl_mechanism,
        )
    return None if context is None else faust.SSLCredentials(context=context)


def require_rights(settings: Settings, profile: PlantProfile) -> None:
    """Raise AuthorizationError unless this user has all rights of a worker listed in docs/operations/security.md."""
    read = {*(topic.name for topic in input_topics(profile)), CONTROL, INCIDENTS, STATE}
    write = {CONTROL, DIAGNOSES, AREAS, ALARMS, DRIFT, INCIDENTS, METRICS, LATE, DEAD_LETTER, STATE}
    _require(settings, profile, read, write, "a worker")


def require_plant_rights(settings: Settings, profile: PlantProfile) -> None:
    """Raise AuthorizationError unless this user has the rights of a plant agent listed in docs/operations/security.md.

    `settings.group` is the plant agent's own group.
    """
    read, write = {AREAS, INCIDENTS, PLANT_STATE}, {AREAS, PLANT, ALARMS, INCIDENTS, LATE, DEAD_LETTER, PLANT_STATE}
    _require(settings, profile, read, write, "a plant agent")


def _require(
    settings: Settings, profile: PlantProfile, read: AbstractSet[str], write: AbstractSet[str], who: str
) -> None:
    """Raise AuthorizationError if a right is missing on one of these topics, those that the profile has."""
    wanted = {
        full_topic_name(settings.topic_prefix, topic.name): [
            *(["READ"] if topic.name in read else []),
            *(["WRITE"] if topic.name in write else []),
        ]
        for topic in all_topics(profile)
        if topic.name in read | write
    }
    missing = missing_rights(settings.address, wanted, settings.group, client_security(settings))
    if missing:
        raise AuthorizationError(
            f"the Kafka broker at {settings.address} denies this user rights that {who} needs: "
            f"{', '.join(missing)}; grant them (docs/operations/security.md)"
        )


def require_ingest_rights(settings: Settings, profile: PlantProfile, *, from_kafka: bool) -> None:
    """Raise AuthorizationError unless this user has the rights of ingest listed in docs/operations/security.md.

    `settings.group` is ingest's own group. Rights on transactional ids cannot be asked for.
    """
    wanted = {full_topic_name(settings.topic_prefix, topic): ["WRITE"] for topic in ingest_outputs(profile)}
    if from_kafka:
        wanted |= {full_topic_name(settings.topic_prefix, topic): ["READ"] for topic in ingest_topics(profile)}
    group = settings.group if from_kafka else None
    missing = missing_rights(settings.address, wanted, group, client_security(settings))
    if missing:
        raise AuthorizationError(
            f"the Kafka broker at {settings.address} denies this user rights that ingest needs: "
            f"{', '.join(missing)}; grant them (docs/operations/security.md)"
        )


def mqtt_password(settings: Settings) -> str | None:
    """The password for the MQTT broker, from its setting or its file; raises SettingsError."""
    return secret("MQTT_PASSWORD", settings.mqtt_password, settings.mqtt_password_file)


def _sasl_password(settings: Settings) -> str | None:
    return secret("SASL_PASSWORD", settings.sasl_password, settings.sasl_password_file)


def secret(name: str, given: SecretStr | None, file: Path | None) -> str | None:
    """A secret from its setting or from its file; no error ever shows it."""
    if file is None:
        return None if given is None else given.get_secret_value()
    try:
        # Editors and `echo` end a file with a newline that is not part of the password.
        found = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise SettingsError(f"FAULTLINE_{name}_FILE {file}: {reason}") from None
    if not found:
        raise SettingsError(f"FAULTLINE_{name}_FILE {file}: is empty")
    return found


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not readable").replace("_", " ").lower()
    return error.strerror or str(error)
