"""`faultline labels`: names are compared with the profile's before anything is written, and the newest label counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.delivery.partitioning import partition_of
from pipeline.wire.records import Output, Record
from tests.support.builders import ONE_SOURCE
from tests.support.commands import assert_one_line, faultline
from tests.support.sending import sending_to
from tests.support.topics import topics_of

BEGIN, END = "2025-11-20T00:53:20Z", "1763600600000"


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    path = tmp_path / "plant.yaml"
    path.write_text(ONE_SOURCE.replace("name: pump\n", 'name: pump\n    match: "p*"\n'), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--machine", "x1", "--fault", "leak"), "--machine 'x1' is no machine of plant small, whose ids fit p*"),
        (("--fault", "laek"), "--fault 'laek' is no fault of machine type pump; did you mean leak?"),
        (("--fault", "leak", "--new"), "--fault 'leak' is not new: the profile has it"),
        (("--fault", "unknown", "--new"), "--fault 'unknown' is not new"),
        (("--fault", "recovering", "--new"), "--fault 'recovering' is a state that models find by themselves"),
        (("--from", "2026-11-03T14:05"), "--from: '2026-11-03T14:05' has no UTC offset"),
        (("--to", "soon"), "--to: 'soon' is not an ISO 8601 time"),
        (("--broker", "memory://x"), "exists in one process only"),
        (("--corrects", "p1"), "--corrects: 'p1' is no id of a diagnosis or alarm"),
        (("--corrects", "p2:1763600220000:0123456789ab:0"), "is a diagnosis of p2, not of p1"),
        (("--by", "k" * 201), "--by has 201 characters; shorten it to 200"),
    ],
)
def test_what_does_not_fit_the_profile_is_refused(plant: Path, options: tuple[str, ...], message: str) -> None:
    given = ("--machine", "p1", "--fault", "leak", "--from", BEGIN, "--broker", "kafka://localhost:1")
    assert_one_line(faultline("labels", "add", "--profile", plant, *given, *options), message)


def test_a_label_says_who_gave_it_and_which_diagnosis_it_corrects(plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Output] = []
    sending_to(monkeypatch, sent, 4)
    where = ("--profile", plant, "--broker", "kafka://broker:9092")
    who = ("--by", "[red]kim[/red]", "--corrects", "p1:1763600220000:0123456789ab:0")
    done = faultline("labels", "add", "--machine", "p1", "--fault", "leak", "--from", BEGIN, "--to", END, *who, *where)
    assert done.returncode == 0, done.stderr
    assert "is written to faultline.labels" in done.stdout
    (output,) = sent
    assert (output.topic, output.partition) == ("labels", partition_of(b"p1", 4))
    record = Record("labels", 0, 0, output.timestamp_ms, output.key, output.value)
    monkeypatch.setattr("agents.kafka.log.kafka_log", topics_of([record]))
    listed = faultline("labels", "list", *where, env={"COLUMNS": "220"})
    assert "[red]kim[/red]" in listed.stdout and "p1:1763600220000:0123456789ab:0" in listed.stdout
    (shown,) = json.loads(faultline("labels", "list", *where, "--json").stdout)["labels"]
    assert (shown["by"], shown["corrects"], "note" in shown) == ("[red]kim[/red]", who[3], False)


def label(machine: str, fault: str, start: int, end: int | None, written: int) -> Record:
    value = {"machine": machine, "fault": fault, "start": start, "end": end}
    return Record("labels", 0, 0, written, machine.encode(), json.dumps(value).encode())


def test_labels_are_listed_in_the_order_of_time_and_replaced_ones_are_not(
    plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        label("p1", "laek", 1_763_600_000_000, None, 1_763_600_500_000),
        label("p1", "leak", 1_763_600_000_000, 1_763_600_060_000, 1_763_600_700_000),
        label("p2", "[red]jam[/red]", 1_763_500_000_000, None, 1_763_600_600_000),
        Record("labels", 0, 0, 1_763_600_000_000, b"p1", b"\x1b[2J"),
    ]
    monkeypatch.setattr("agents.kafka.log.kafka_log", topics_of(records))
    command = ("labels", "list", "--profile", plant, "--broker", "kafka://broker:9092")
    done = faultline(*command, env={"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    assert [[one.strip() for one in row] for row in rows] == [
        ["p2", "[red]jam[/red]", "2025-11-18 21:06:40Z", "still there", "2025-11-20 01:03:20Z"],
        ["p1", "leak", "2025-11-20 00:53:20Z", "2025-11-20 00:54:20Z", "2025-11-20 01:05:00Z"],
    ]
    assert "2 of 2 labels" in done.stdout
    assert "cannot be read: partition" in done.stdout
    assert "\x1b" not in done.stdout
    shown = json.loads(faultline(*command, "--machine", "p1", "--json").stdout)
    assert shown["labels"] == [{"machine": "p1", "fault": "leak", "start": 1_763_600_000_000, "end": 1_763_600_060_000}]
    assert len(shown["unreadable"]) == 1
