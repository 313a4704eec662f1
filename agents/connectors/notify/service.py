"""`faultline notify`: from checking its settings to its last notification."""

from __future__ import annotations

import time

from agents.connectors.notify.formats import NotificationFormat, body_writer
from agents.connectors.notify.notifier import Choice, Notifier
from agents.connectors.notify.source import KafkaAlarmSource
from agents.connectors.notify.webhook import Webhook
from agents.kafka.security import client_security, secret
from agents.words import Words
from agents.worker.process import Guard, live, work
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.errors import SettingsError


def webhook_of(settings: Settings, timeout_seconds: float) -> Webhook:
    """The receiver that the settings name; raises SettingsError."""
    url = secret("NOTIFY_URL", settings.notify_url, settings.notify_url_file)
    if url is None:
        raise SettingsError("notify needs FAULTLINE_NOTIFY_URL or FAULTLINE_NOTIFY_URL_FILE, where alarms are posted")
    return Webhook(
        url,
        secret=secret("NOTIFY_SECRET", settings.notify_secret, settings.notify_secret_file),
        token=secret("NOTIFY_TOKEN", settings.notify_token, settings.notify_token_file),
        timeout_seconds=timeout_seconds,
        wall_seconds=time.time,
    )


async def serve(
    settings: Settings,
    profile: PlantProfile,
    kind: NotificationFormat,
    choice: Choice,
    *,
    name: str,
    template: str | None,
    timeout_seconds: float,
) -> None:
    """Post alarms until SIGTERM or SIGINT; `name` is the receiver's, each has a consumer group of its own.

    Raises FaultlineError if it cannot start or continue.
    """
    if settings.is_memory:
        raise SettingsError("notify needs FAULTLINE_BROKER=kafka://host:port; memory:// is for `faultline replay`")
    webhook = webhook_of(settings, timeout_seconds)
    words = Words(profile)
    write = body_writer(kind, words, profile.plant, template)
    security = client_security(settings)
    group = f"{settings.group}-notify-{name}"

    async def serve_guarded(guard: Guard) -> None:
        source = KafkaAlarmSource(settings.address, settings.topic_prefix, group, **security)
        notifier = Notifier(settings, source, webhook, write, choice, words, time.time)
        await work(notifier, guard, settings, f"alarms for {webhook.name}")

    await live(settings, serve_guarded)
