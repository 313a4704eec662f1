"""The forms that a profile declares for ingest, ready to read records."""

from __future__ import annotations

from agents.connectors.ingest.rewriting import OpenForm
from pipeline.config.form import Ingest
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import FOREIGN
from pipeline.errors import ProfileError, SettingsError
from pipeline.mapping.form_reader import FormReader
from pipeline.mapping.schemas import Schemas


def kafka_forms(profile: PlantProfile, schemas: Schemas | None) -> dict[str, OpenForm]:
    """By topic; raises ProfileError if there is none."""
    found = {entry.topic: _open(entry, entry.topic, schemas) for entry in profile.ingest if entry.topic is not None}
    if not found:
        raise ProfileError(
            f"plant {profile.plant} has no `ingest` with a topic; write one (docs/guide/connecting.md), or read its "
            "MQTT topics with --mqtt"
        )
    return found


def mqtt_forms(profile: PlantProfile, schemas: Schemas | None) -> dict[str, OpenForm]:
    """By topic filter, in the profile's order; raises ProfileError if there is none."""
    found = {entry.mqtt: _open(entry, entry.mqtt, schemas) for entry in profile.ingest if entry.mqtt is not None}
    if not found:
        raise ProfileError(f"plant {profile.plant} has no `ingest` with mqtt; write one (docs/guide/connecting.md)")
    return found


def _open(entry: Ingest, name: str, schemas: Schemas | None) -> OpenForm:
    form = entry.form
    if form.encoding == "avro" and schemas is None:
        raise SettingsError(f"{name.removeprefix(FOREIGN)} is Avro; set FAULTLINE_SCHEMA_REGISTRY to its schemas")
    return OpenForm(FormReader(form, name, schemas), form.text is not None or form.template is not None)
