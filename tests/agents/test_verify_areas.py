"""`faultline verify` of areas: what agents say is proven, and whatever is taken away, changed or moved is found."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from agents.audit.log import RecordLog
from agents.audit.reports.area_check import AreaCheck, check_areas
from agents.cli.audit import verify
from pipeline.config.topics import AREAS, PLANT
from pipeline.wire import messages
from pipeline.wire.recording import RecordingWriter
from pipeline.wire.records import Record
from tests.support.area_plant import WITH_AREAS, AreaPlant, area_story, diagnosis
from tests.support.builders import profile
from tests.support.delivery_apps import run

PROFILE = profile(WITH_AREAS)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@cache
def said() -> tuple[Record, ...]:
    """The topics `areas` and `plant` after an agent was killed and followed."""
    found: list[Record] = []

    async def test() -> None:
        plant = AreaPlant(partitions=2, chunk_records=30, checkpoint_records=60)
        plant.place(area_story(60, plant.partition_of, 2, seed=9))
        await plant.live_agent(at={"state_write": 4})
        await plant.live_agent()
        found.extend([*plant.log(AREAS), *plant.log(PLANT)])

    run(test(), seconds=60)
    return tuple(found)


def check(records: list[Record]) -> AreaCheck:
    return check_areas(RecordLog(lambda: records), PROFILE)


def changed(change: Callable[[dict[str, Any]], None]) -> list[Record]:
    """What was said, with the content of one frame of the hall changed, wherever it stands."""
    records = list(said())
    of_hall = [json.loads(record.value or b"") for record in records if record.key == b"hall" and record.topic == PLANT]
    id_ = of_hall[20]["id"]
    for place, record in enumerate(records):
        if record.topic == PLANT and (content := json.loads(record.value or b""))["id"] == id_:
            change(content)
            records[place] = record._replace(value=json.dumps(content).encode())
    return records


def test_what_a_killed_agent_and_its_successor_said_is_proven() -> None:
    found = check(list(said()))
    assert found.proven and found.as_dict()["problems"] == {}
    assert found.frames > 90 and found.repeated > 0 and found.unchecked == []


def test_a_frame_that_is_taken_away_is_missed() -> None:
    ids = [json.loads(record.value or b"")["id"] for record in said() if record.topic == PLANT]
    gone = next(id_ for id_ in ids[20:] if ids.count(id_) == 1)
    records = [one for one in said() if one.topic != PLANT or json.loads(one.value or b"")["id"] != gone]
    found = check(records)
    assert dict(found.problems) == {"missing": 1}
    assert gone.split(":")[1] in found.examples[0]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda content: content["machines"]["pump-1"].update(presence="late"), "differing"),
        (lambda content: content["machines"]["pump-1"].update(own_confidence=0.123), "differing"),
        (lambda content: content.update(id="hall:1:2"), "malformed"),
        (lambda content: content.update(area="cellar"), "malformed"),
        (lambda content: content.pop("cause"), "unreadable"),
    ],
)
def test_what_does_not_follow_from_the_diagnoses_is_found(change: Callable[[dict[str, Any]], None], kind: str) -> None:
    found = check(changed(change))
    assert kind in found.problems and not found.proven


def test_an_id_with_two_contents_is_found() -> None:
    records = list(said())
    last = next(record for record in reversed(records) if record.topic == PLANT)
    content = json.loads(last.value or b"")
    content["cause"]["probability"] = 0.42
    found = check([*records, last._replace(value=json.dumps(content).encode(), offset=last.offset + 1)])
    assert dict(found.problems) == {"two contents": 1}


def test_where_the_beginning_was_deleted_only_the_rest_is_checked() -> None:
    records = [record for record in said() if record.topic == PLANT or record.offset >= 10]
    found = check(records)
    assert found.proven and len(found.unchecked) == 2


def test_the_command_says_both(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(verify)
    path, plant = tmp_path / "said.parquet", tmp_path / "plant.yaml"
    plant.write_text(WITH_AREAS, encoding="utf-8")
    diagnosed = [diagnosis("pump-1", frame, reset="start" if frame == 0 else None) for frame in range(5)]
    records = [
        Record("diagnoses", 0, offset, one.frame_end, b"pump-1", messages.encode(one))
        for offset, one in enumerate(diagnosed)
    ]
    with RecordingWriter(path) as writer:
        writer.write([*records, *said()])
    done = CliRunner().invoke(app, ["--recording", str(path), "--profile", str(plant)])
    assert done.exit_code == 0, done.output
    assert "each follows from its diagnoses" in done.output
    done = CliRunner().invoke(app, ["--recording", str(path), "--profile", str(plant), "--json"])
    assert json.loads(done.output)["areas"]["proven"] is True
