"""`faultline ingest`: one process, from checking topics and rights to its last transaction."""

from __future__ import annotations

from agents.connectors.ingest.forms import kafka_forms, mqtt_forms
from agents.connectors.ingest.ingest import Ingest
from agents.connectors.ingest.mqtt import MqttAddress, MqttInbox
from agents.connectors.ingest.mqtt_ingest import MqttIngest
from agents.kafka.codecs import WORKER_MODULES, require_codecs
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.schema_registry import schema_registry
from agents.kafka.security import client_security, faust_credentials, require_ingest_rights
from agents.kafka.topics import require_ingest_topics
from agents.kafka.transactions import KafkaTransactions
from agents.worker.process import Guard, in_thread, live, work
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.errors import SettingsError


async def serve(settings: Settings, profile: PlantProfile, mqtt: str | None = None) -> None:
    """Read the profile's Kafka topics, or its MQTT topics at this address, until SIGTERM or SIGINT.

    Raises FaultlineError if it cannot start or continue.
    """
    if settings.is_memory:
        raise SettingsError("ingest needs FAULTLINE_BROKER=kafka://host:port; memory:// is for `faultline replay`")
    require_codecs(*WORKER_MODULES)
    settings = settings.of_ingest
    address = None if mqtt is None else MqttAddress.parse(mqtt)
    schemas = schema_registry(settings)
    forms = kafka_forms(profile, schemas) if address is None else mqtt_forms(profile, schemas)

    async def serve_guarded(guard: Guard) -> None:
        letter_bytes = await in_thread(require_ingest_topics, settings, profile, from_kafka=address is None)
        await in_thread(require_ingest_rights, settings, profile, from_kafka=address is None)
        security = client_security(settings)
        if address is not None:
            inbox = MqttInbox(address, tuple(forms), settings)
            publisher = KafkaPublisher(settings.address, settings.topic_prefix, letter_bytes=letter_bytes, **security)
            await work(MqttIngest(settings, profile, forms, inbox, publisher), guard, settings, str(address))
            return
        transactions = KafkaTransactions(
            settings.address, settings.topic_prefix, settings.group, letter_bytes=letter_bytes, **security
        )
        ingest = Ingest(
            settings,
            profile,
            forms,
            transactions.claim,
            credentials=faust_credentials(settings),
        )
        await transactions.start()
        try:
            await work(ingest, guard, settings, settings.broker)
        finally:
            await transactions.stop()

    await live(settings, serve_guarded)
