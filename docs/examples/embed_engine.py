"""The engine without Kafka: records as bytes go in, diagnoses as bytes come out."""

import json
from itertools import islice

from agents.replay.shipped import demo_model, demo_recording
from models.stepping.load import load_model
from pipeline.config.profile import load_profile
from pipeline.engine.engine import Engine
from pipeline.wire.recording import read_recording

profile = load_profile("tennessee_eastman")
engine = Engine(profile, {kind.name: load_model(demo_model(), kind) for kind in profile.machine_types})
# Each is Record(topic, partition, offset, timestamp_ms, key, value, headers), as a Kafka consumer would give it.
for record in islice(read_recording(demo_recording()), 6_000):
    for output in engine.process([record]):
        if output.topic == "diagnoses":
            diagnosis = json.loads(output.value or b"")
            print(diagnosis["frame_end"], diagnosis["machine"], diagnosis["fault"], diagnosis["confidence"])
