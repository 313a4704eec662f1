"""The forms that a profile declares for ingest, ready to read records."""

from __future__ import annotations

from agents.ingest.rewriting import OpenForm
from pipeline.config.profile import Ingest, PlantProfile
from pipeline.errors import ProfileError
from pipeline.mapping.form_reader import FormReader


def kafka_forms(profile: PlantProfile) -> dict[str, OpenForm]:
    """By topic; raises ProfileError if there is none."""
    found = {entry.topic: _open(entry, entry.topic) for entry in profile.ingest if entry.topic is not None}
    if not found:
        raise ProfileError(
            f"plant {profile.plant} has no `ingest` with a topic; write one (docs/guide/connecting.md), or read its "
            "MQTT topics with --mqtt"
        )
    return found


def mqtt_forms(profile: PlantProfile) -> dict[str, OpenForm]:
    """By topic filter, in the profile's order; raises ProfileError if there is none."""
    found = {entry.mqtt: _open(entry, entry.mqtt) for entry in profile.ingest if entry.mqtt is not None}
    if not found:
        raise ProfileError(f"plant {profile.plant} has no `ingest` with mqtt; write one (docs/guide/connecting.md)")
    return found


def _open(entry: Ingest, name: str) -> OpenForm:
    form = entry.form
    return OpenForm(FormReader(form, name, None), form.text is not None or form.template is not None)
