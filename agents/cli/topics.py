"""The commands about topics: `faultline topics create` and `faultline topics check`."""

from __future__ import annotations

from agents.cli.options import BrokerOption, ProfileOption
from agents.cli.views.printable import say
from pipeline.config.profile import load_profile
from pipeline.config.settings import load_settings


def create(broker: BrokerOption = None, profile: ProfileOption = None, partitions: int | None = None) -> None:
    """Create every topic that is missing, with equal partition counts."""
    from agents.kafka.admin import create_topics
    from agents.kafka.security import client_security
    from agents.kafka.topics import require_topics, topic_specs

    settings = load_settings(broker=broker, profile=profile, partitions=partitions)
    plant = load_profile(settings.profile)
    report = create_topics(settings.address, topic_specs(settings, plant), client_security(settings))
    for name in report.created:
        say(f"created  {name}")
        for note in report.notes.get(name, ()):
            say(f"         {note}")
    for name in report.existing:
        say(f"exists   {name}")
    limits = require_topics(settings, plant)
    if not report.notes:  # else they are said already
        for note in limits.notes:
            say(note)


def check(broker: BrokerOption = None, profile: ProfileOption = None, partitions: int | None = None) -> None:
    """Check that every topic exists and has the right partition count and settings."""
    from agents.kafka.topics import require_topics, topic_specs

    settings = load_settings(broker=broker, profile=profile, partitions=partitions)
    plant = load_profile(settings.profile)
    for note in require_topics(settings, plant).notes:
        say(note)
    say(f"{len(topic_specs(settings, plant))} topics are set up correctly")
