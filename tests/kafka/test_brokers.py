"""An older Kafka than the one that all other tests use, and brokers that refuse some settings of topics."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.bench.local_kafka.broker import KafkaBroker
from agents.bench.local_kafka.jars import ensure_jars, missing_tools
from agents.kafka.admin import check_topics, create_topics
from agents.kafka.topics import require_topics, topic_specs
from pipeline.errors import TopicMismatchError
from pipeline.wire.letters import LETTER_BYTES
from tests.kafka.test_producers import CODECS, aborted, compressed
from tests.kafka.test_recreated_topics import recreated_while_running, recreated_while_stopped
from tests.support.commands import assert_one_line, faultline
from tests.support.delivery_apps import run
from tests.support.kafka_fixtures import skip_or_fail
from tests.support.kafka_plant import KafkaSite, processed, readings

pytestmark = pytest.mark.kafka

OLD_KAFKA = "3.5.2"
POLICY = Path(__file__).parent.parent / "support" / "CappedTopics.java"
CAP = 8 << 20


@pytest.fixture(scope="module")
def old_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Kafka of another version, which caps records in topics whose names begin with "capped"."""
    if (reason := missing_tools(version=OLD_KAFKA)) is not None:
        skip_or_fail(reason)
    jars, classes = ensure_jars(version=OLD_KAFKA), tmp_path_factory.mktemp("classes")
    command = ["javac", "-cp", f"{jars}/*", "-d", str(classes), str(POLICY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    overrides = {"create.topic.policy.class.name": POLICY.stem}
    with KafkaBroker.start(version=OLD_KAFKA, classes=classes, overrides=overrides) as broker:
        yield broker.bootstrap


def environment(bootstrap: str, prefix: str) -> dict[str, str]:
    return {"FAULTLINE_BROKER": f"kafka://{bootstrap}", "FAULTLINE_TOPIC_PREFIX": prefix}


def test_a_setting_that_the_broker_does_not_know_is_left_out_and_said(old_kafka: str) -> None:
    env = environment(old_kafka, "plain.")
    done = faultline("topics", "create", env=env)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    at = lines.index("created  plain.diagnoses")
    assert "message.timestamp.after.max.ms is left out (Unknown topic config name" in lines[at + 1], lines
    assert lines[-1] == "created  plain.state", "it needs no such setting"
    created = [line for line in lines if line.startswith("created")]
    checked = faultline("topics", "check", env=env)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.splitlines() == [f"{len(created)} topics are set up correctly"]
    # What exists is left as it is, and nothing is said twice.
    assert set(faultline("topics", "create", env=env).stdout.splitlines()) == {
        f"exists   {line.split()[1]}" for line in created
    }


def test_a_limit_of_the_broker_is_kept_and_what_follows_is_said(old_kafka: str) -> None:
    env = environment(old_kafka, "capped.")
    done = faultline("topics", "create", env=env)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for topic, follows in (("dead-letter", "larger dead letters and late records are cut"), ("state", "fresh")):
        lines = text.splitlines()
        notes = lines[lines.index(f"created  capped.{topic}") + 1 :]
        note = next(line for line in notes if "max.message.bytes" in line)
        assert note.strip().startswith(f"max.message.bytes is {CAP} instead of "), note
        assert f"(max.message.bytes may be {CAP} at most)" in note and follows in note, note
    checked = faultline("topics", "check", env=env)
    assert checked.returncode == 0, checked.stderr
    *notes, last = checked.stdout.splitlines()
    assert last.endswith("topics are set up correctly")
    assert sorted(note.split("'")[1] for note in notes) == ["capped.dead-letter", "capped.late", "capped.state"]


def test_a_worker_keeps_to_the_limits_of_its_topics(old_kafka: str, caplog: pytest.LogCaptureFixture) -> None:
    run(_limited(old_kafka, caplog))


async def _limited(bootstrap: str, caplog: pytest.LogCaptureFixture) -> None:
    site = KafkaSite(bootstrap, topic_prefix="capped-worker.")
    limits = require_topics(site.settings, site.profile)
    assert limits.letter_bytes == limits.state_bytes == CAP - 1024
    assert limits.letter_bytes < LETTER_BYTES
    # A producer may send more than letters can hold: the letter is cut.
    large = b"x" * (CAP + 100_000)
    site.configure("sensors", {"max.message.bytes": str(2 * CAP)})
    first, second = readings("p1", 3), readings("p1", 1, start_ms=readings("p1", 3)[-1].timestamp_ms + 4_000)
    async with site.working(limits._replace(state_bytes=300)) as worker:
        await site.send([first[0]._replace(value=large)], max_request_size=2 * CAP)
        await site.send(first)
        await processed(worker, len(first) + 1)
    (letter,) = site.records("dead-letter")
    assert letter.value is not None
    assert 0 < len(letter.value) < CAP
    assert dict(letter.headers)["faultline-truncated"]
    assert "the state of p1 has " in caplog.text and "takes 300" in caplog.text
    # Its records stay applied, and it begins with a fresh state.
    await site.send(second)
    async with site.working(limits) as worker:
        await processed(worker, len(second))
    found = await site.diagnoses()
    assert [one.reset for one in found] == ["start", None, None, "start"]


def test_a_setting_that_is_needed_is_not_left_out(old_kafka: str) -> None:
    site = KafkaSite(old_kafka)
    specs = [spec for spec in topic_specs(site.settings, site.profile) if spec.name.endswith("state")]
    (wrong,) = [
        type(spec)(**vars(spec) | {"name": f"{spec.name}x", "config": {"cleanup.policy": "shrink"}}) for spec in specs
    ]
    with pytest.raises(TopicMismatchError, match=r"cannot|refuses to create topic .*statex"):
        create_topics(old_kafka, [wrong])
    assert check_topics(old_kafka, specs) == []


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_a_compacted_input_is_refused_by_the_check_and_before_a_worker_starts(kafka: str, policy: str) -> None:
    site = KafkaSite(kafka)
    site.configure("sensors", {"cleanup.policy": policy})
    env = environment(kafka, site.settings.topic_prefix) | {"FAULTLINE_PARTITIONS": "2"}
    for command in (("topics", "check"), ("run",)):
        assert_one_line(faultline(*command, env=env), f"sensors' has cleanup.policy '{policy}': compaction deletes")


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_on_an_older_kafka(old_kafka: str, codec: str, tmp_path: Path) -> None:
    run(compressed(old_kafka, codec, tmp_path))


def test_transactions_on_an_older_kafka(old_kafka: str, tmp_path: Path) -> None:
    run(aborted(old_kafka, tmp_path))


def test_recreated_topics_on_an_older_kafka(
    old_kafka: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(recreated_while_stopped(old_kafka, 20, caplog), 120)
    monkeypatch.setattr("agents.worker.stateful.LOOK_SECONDS", 1.0)
    run(recreated_while_running(old_kafka, caplog), 120)
