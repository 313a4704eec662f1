"""Hostile records through ingest's rewriting: each is written again, counted as of no use, or kept as a dead letter."""

from __future__ import annotations

import pytest
import yaml

from agents.connectors.ingest.rewriting import OpenForm, Rewriter
from pipeline.config.form import Form
from pipeline.config.profile import parse_profile
from pipeline.config.topics import DEAD_LETTER
from pipeline.mapping.form_reader import FormReader
from pipeline.wire.messages import Reason, decode_event
from pipeline.wire.readings import decode_reading
from pipeline.wire.records import Record
from tests.support.hostile import PUMPS, Target, mixed_traffic
from tests.support.hostile_foreign import ALL_KINDS
from tests.support.hostile_forms import ALARM_FORM, ALARMS, FORMS, Schemas, foreign_plant

TARGET = Target(forms=FORMS, large_bytes=100_000)


def open_forms() -> dict[str, OpenForm]:
    readings = {
        form.topic: OpenForm(FormReader(Form.model_validate(form.declared), form.topic, Schemas()), False)
        for form in FORMS
    }
    return readings | {ALARMS: OpenForm(FormReader(Form.model_validate(ALARM_FORM), ALARMS), True)}


@pytest.mark.parametrize("seed", [1, 2])
def test_every_hostile_record_is_written_again_or_counted_or_kept(seed: int) -> None:
    plant = yaml.safe_load(foreign_plant(PUMPS, FORMS, TARGET.prefix))
    for kind in plant["machine_types"]:  # ingest writes to the plant's own topics
        kind["sources"]["sensors"] = {"topic": f"sensors.{kind['name']}"}
    del plant["events"]
    rewriter = Rewriter(parse_profile(yaml.safe_dump(plant), where="test"), TARGET.partitions)
    forms, seen = open_forms(), 0
    for one in mixed_traffic(TARGET, 3_000, seed, kinds=ALL_KINDS):
        output = one.output
        if output.topic not in forms:
            continue
        seen += 1
        place = output.topic, output.partition or 0, 0, output.timestamp_ms
        record = Record(*place, output.key, output.value, output.headers)
        outputs, tally = rewriter.rewrite([record], forms[output.topic], output.topic)
        letters = [out for out in outputs if out.topic == DEAD_LETTER]
        written = [out for out in outputs if out.topic != DEAD_LETTER]
        assert len(outputs) + tally.without_use[output.topic] >= 1 and len(letters) <= 1
        assert sum(tally.dead_letters.values()) == len(letters)
        for letter in letters:
            assert one.kind != "good" and (letter.key, letter.value) == (output.key, output.value)
            assert letter.headers[: len(output.headers)] == output.headers
            assert dict(letter.headers)["faultline-reason"].decode() in set(Reason)
        for out in written:
            assert out.value is not None and out.key is not None
            machine = (decode_event if out.topic == "events" else decode_reading)(out.value).machine
            assert machine.encode() == out.key and b"NaN" not in out.value
        if one.kind == "good":
            assert written
    assert seen > 2_000
