"""Credentials and encryption, in the forms that kafka-python, aiokafka and Faust want them."""

from __future__ import annotations

import ssl
from typing import Any

from pipeline.errors import SettingsError
from pipeline.settings import Settings


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context of the settings; None without TLS. Raises SettingsError if the CA file is unusable."""
    if "SSL" not in settings.security_protocol:
        return None
    try:
        return ssl.create_default_context(cafile=None if settings.ssl_cafile is None else str(settings.ssl_cafile))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"FAULTLINE_SSL_CAFILE {settings.ssl_cafile}: {error}") from error


def client_security(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for kafka-python's and aiokafka's clients; empty without security."""
    if settings.security_protocol == "PLAINTEXT":
        return {}
    arguments: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if (context := ssl_context(settings)) is not None:
        arguments["ssl_context"] = context
    if settings.sasl_password is not None and settings.security_protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = settings.sasl_mechanism
        arguments["sasl_plain_username"] = settings.sasl_username
        arguments["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    return arguments


def faust_credentials(settings: Settings) -> Any:
    """Credentials for a Faust app; None without security."""
    import faust

    context = ssl_context(settings)
    if settings.security_protocol.startswith("SASL") and settings.sasl_password is not None:
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=settings.sasl_password.get_secret_value(),
            ssl_context=context,
            mechanism=settings.sasl_mechanism,
        )
    return None if context is None else faust.SSLCredentials(context=context)
