"""Profiles and settings: what is right is read, what is wrong is named with its field."""

from __future__ import annotations

import pytest

from agents.kafka.topics import topic_specs
from pipeline.config.profile import load_profile, parse_profile, shipped_profiles
from pipeline.config.quantities.durations import parse_duration_ms
from pipeline.config.settings import load_settings
from pipeline.errors import ProfileError, SettingsError
from tests.support.builders import ONE_SOURCE, kind, profile


def test_the_shipped_profile_describes_tennessee_eastman() -> None:
    plant = load_profile("tennessee_eastman")
    (machine_type,) = plant.machine_types
    assert machine_type.frame_period_ms == 180_000
    assert machine_type.variable_names == tuple(
        [f"xmeas_{i}" for i in range(1, 42)] + [f"xmv_{i}" for i in range(1, 12)]
    )
    assert machine_type.faults == ("normal", *(f"idv_{i}" for i in range(1, 21)))
    assert machine_type.digest == "1ca6f113e258311e"  # another one would refuse the shipped model and all saved states


@pytest.mark.parametrize(
    ("name", "machine", "other"),
    [
        ("tennessee_eastman", "te-07", "pump-7"),
        ("azure_pdm", "pdm-100", "te-07"),
        ("skab", "valve1-0", "pump"),
    ],
)
def test_a_shipped_profile_takes_the_machines_of_its_data_and_no_others(name: str, machine: str, other: str) -> None:
    plant = load_profile(name)
    assert plant.type_of(machine) is plant.machine_types[0]
    assert plant.type_of(other) is None


@pytest.mark.parametrize(("text", "ms"), [("250ms", 250), ("10s", 10_000), ("1.5h", 5_400_000), ("2d", 172_800_000)])
def test_durations(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3600, "3600 has no unit; write 3600s or 1h"),
        (30, "30 has no unit; write 30s, 30m or 30h"),
        (1.5, "1.5 has no unit; write 1.5s, 1.5m or 1.5h"),
        (5000, "5000 has no unit; write 5000s or 5000ms"),
        ('"180000"', "180000 has no unit; write 180000s or 50h if it counts seconds, 180000ms if milliseconds"),
        (10**15, "has no unit; write for example"),
        ("10 min", "'10 min' is not a duration such as .*; write 10m"),
        ("2 Hours", "write 2h"),
        ("10S", "write 10s"),
        ("PT10S", "'PT10S' is not a duration such as 250ms, 10s, 3m, 1.5h or 2d"),
        ("-5s", "is not a duration"),
        ("true", "True is not a duration"),
    ],
)
def test_a_duration_without_a_unit_is_refused_with_what_to_write(given: object, said: str) -> None:
    with pytest.raises(ProfileError, match=rf"machine_types\.0\.frame_period: .*{said}"):
        parse_profile(ONE_SOURCE.replace("frame_period: 10s", f"frame_period: {given}"), where="x.yaml")
    with pytest.raises(ProfileError, match=said):
        parse_profile(ONE_SOURCE.replace("allowed_disorder: 5s", f"allowed_disorder: {given}"), where="x.yaml")


def test_no_time_at_all_needs_no_unit() -> None:
    assert parse_duration_ms(0) == 0


@pytest.mark.parametrize(("given", "ms"), [("250", 250), ("2s", 2_000), ("1m", 60_000)])
def test_settings_in_ms_count_milliseconds_unless_they_have_a_unit(
    monkeypatch: pytest.MonkeyPatch, given: str, ms: int
) -> None:
    monkeypatch.setenv("FAULTLINE_TICK_INTERVAL_MS", given)
    assert load_settings().tick_interval_ms == ms
    monkeypatch.setenv("FAULTLINE_TICK_INTERVAL_MS", "1.5")
    with pytest.raises(SettingsError, match=r"FAULTLINE_TICK_INTERVAL_MS '1\.5': 1\.5 has no unit; write"):
        load_settings()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("frame_period: 10s", "frame_period: soon", "frame_period"),
        ("frame_period: 10s", "frame_period: 0s", "frame_period"),
        ("[normal, leak, jam]", "[leak, normal]", "first fault"),
        ("[normal, leak, jam]", "[]", r"and the faults if there are any, as \[normal, failing\]"),
        ("frame_period: 10s", "frame_perod: 10s", "machine_types.0.frame_perod: .* did you mean frame_period"),
        ("plant: ", "plnt: ", "plnt: there is no such key; did you mean plant"),
        ("{name: load}", "{name: flow}", "more than once: flow"),
        ("{name: load}", "{name: load, source: lab}", "not declared: lab"),
        ("{name: load}", "{name: load, colour: red}", "colour"),
        ("topic: sensors", "topic: my readings", "topic"),
    ],
)
def test_wrong_profiles_name_the_field(old: str, new: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        parse_profile(ONE_SOURCE.replace(old, new), where="x.yaml")


def test_an_unknown_profile_names_the_shipped_ones() -> None:
    with pytest.raises(ProfileError, match="tennessee_eastman"):
        load_profile("nowhere.yaml")


def test_the_digest_follows_what_a_model_depends_on() -> None:
    same = kind(ONE_SOURCE.replace("max_gap_frames: 3", "max_gap_frames: 4"))
    other = kind(ONE_SOURCE.replace("{name: load}", "{name: load, aggregation: mean}"))
    assert kind().digest == same.digest != other.digest


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTLINE_BROKER", "kafka://broker-1:9092,broker-2:9092")
    monkeypatch.setenv("FAULTLINE_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("FAULTLINE_SASL_USERNAME", "worker")
    monkeypatch.setenv("FAULTLINE_SASL_PASSWORD", "hunter2")
    settings = load_settings(partitions=8)
    assert settings.address == "broker-1:9092,broker-2:9092"
    assert settings.partitions == 8
    assert "hunter2" not in repr(settings)


def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTLINE_PARTITIONS", "many")
    monkeypatch.setenv("FAULTLINE_WEB_PORT", "99999")
    with pytest.raises(SettingsError, match=r"FAULTLINE_PARTITIONS.*FAULTLINE_WEB_PORT"):
        load_settings()


def test_a_broker_needs_a_scheme() -> None:
    with pytest.raises(SettingsError, match="neither kafka"):
        load_settings(broker="localhost:9092")


@pytest.mark.parametrize(
    ("prefix", "source", "more", "taken"),
    [
        ("", "plant", "events: [{topic: alarms}]", "alarms"),
        ("", "plant", "events: [{topic: events}]", "events"),
        ("", "plant", "ingest: [{topic: dead-letter}]", "dead-letter"),
        ("faultline.", "faultline.diagnoses", "", "diagnoses"),
        ("faultline.", "plant", "events: [{topic: faultline.control}]", "control"),
        ("plant-", "plant-state", "", "state"),
    ],
)
def test_a_topic_of_others_must_not_have_the_name_of_one_of_ours(
    prefix: str, source: str, more: str, taken: str
) -> None:
    plant = profile(f"{more}\n{ONE_SOURCE}".replace("topic: sensors,", f"topic: {source}, form: {{}},"))
    with pytest.raises(SettingsError, match=f"Faultline's own topic of {taken}; set another"):
        topic_specs(load_settings(topic_prefix=prefix), plant)
    assert topic_specs(load_settings(topic_prefix="own."), plant)


def test_the_digest_of_a_profile_is_of_all_that_it_says() -> None:
    plant = profile()
    assert plant.digest == profile(f"# a comment\n{ONE_SOURCE}").digest
    others = [
        profile(ONE_SOURCE.replace("allowed_disorder: 5s", "allowed_disorder: 6s")),
        profile(ONE_SOURCE.replace("plant: small", "plant: smaller")),
        profile(f"{ONE_SOURCE}events: [{{topic: plant.alarms}}]"),
    ]
    assert len({plant.digest, *(other.digest for other in others)}) == 4


def test_machines_are_kept_as_long_as_their_texts_count_unless_the_profile_says_otherwise() -> None:
    def state_ttl_days(settings: str) -> float:
        plant = profile(ONE_SOURCE.replace("text_ttl_frames: 6", settings))
        return plant.machine_types[0].state_ttl_ms / 86_400_000

    # Frames of ten seconds: a day has 8,640.
    assert state_ttl_days("text_ttl_frames: 6") == 7
    assert state_ttl_days("text_ttl_frames: 864000") == 100
    assert state_ttl_days("text_ttl_frames: 864000\n    texts: false") == 7
    assert state_ttl_days("text_ttl_frames: 864000\n    state_ttl: 2d") == 2


@pytest.mark.parametrize("name", shipped_profiles())
def test_no_shipped_plant_forgets_a_machine_before_its_texts(name: str) -> None:
    for machine_type in load_profile(name).machine_types:
        lifetime_ms = machine_type.text_ttl_frames * machine_type.frame_period_ms
        assert machine_type.state_ttl_ms >= lifetime_ms or not machine_type.texts
