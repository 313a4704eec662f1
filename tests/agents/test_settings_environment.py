"""Environment variables: wrong names, logins without their protocol and empty values are refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from agents.cli.main import app
from pipeline.config.environment import OTHER_VARIABLES
from pipeline.config.settings import Settings, load_settings
from pipeline.errors import SettingsError

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-never-shown"


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FAULTLINE_SECURITY_PROTOCOLL", "FAULTLINE_SECURITY_PROTOCOL"),
        ("FAULTLINE_SECURTY_PROTOCOL", "FAULTLINE_SECURITY_PROTOCOL"),
        ("FAULTLINE_SASL_PASSWORD_FIEL", "FAULTLINE_SASL_PASSWORD_FILE"),
        ("FAULTLINE_BROKERS", "FAULTLINE_BROKER"),
        ("faultline_partition", "FAULTLINE_PARTITIONS"),
        ("Faultline_Profil", "FAULTLINE_PROFILE"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    assert f"{name} is no setting of Faultline; is {meant} meant?" in refused(monkeypatch, **{name: SECRET})


def test_a_name_like_no_other_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "faultline settings" in refused(monkeypatch, FAULTLINE_XYZZY="1")


def test_all_problems_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refused(monkeypatch, FAULTLINE_BROKERS="x", FAULTLINE_PROFILE="", FAULTLINE_GROUP="plant ")
    assert "FAULTLINE_BROKERS" in text and "FAULTLINE_PROFILE is empty" in text and "FAULTLINE_GROUP has blanks" in text


@pytest.mark.parametrize("name", [f"FAULTLINE_{name.upper()}" for name in Settings.model_fields])
def test_an_empty_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "FAULTLINE_TOPIC_PREFIX":  # topics may have no prefix
        monkeypatch.setenv(name, "")
        assert load_settings().topic_prefix == ""
    else:
        assert f"{name} is empty; give it a value, or unset it" in refused(monkeypatch, **{name: ""})


@pytest.mark.parametrize("value", [" kafka://a:9092", "kafka://a:9092\n", "kafka://a:9092\t"])
def test_blanks_around_a_value_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert "FAULTLINE_BROKER has blanks or line breaks" in refused(monkeypatch, FAULTLINE_BROKER=value)


def test_a_password_may_have_blanks_but_not_end_with_the_line_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refused(monkeypatch, FAULTLINE_MQTT_USERNAME="x", FAULTLINE_MQTT_PASSWORD=f"{SECRET}\n")
    assert "FAULTLINE_MQTT_PASSWORD begins or ends with a line break" in text
    monkeypatch.setenv("FAULTLINE_MQTT_PASSWORD", f" {SECRET} ")
    password = load_settings().mqtt_password
    assert password is not None and password.get_secret_value() == f" {SECRET} "


def test_the_same_variable_in_two_spellings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refused(monkeypatch, FAULTLINE_GROUP="a", faultline_group="b")
    assert "FAULTLINE_GROUP and faultline_group are the same setting" in text


def test_what_kubernetes_sets_for_a_service_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "FAULTLINE_SERVICE_HOST": "10.0.0.7",
        "FAULTLINE_SERVICE_PORT": "9464",
        "FAULTLINE_SERVICE_PORT_METRICS": "9464",
        "FAULTLINE_PORT": "tcp://10.0.0.7:9464",
        "FAULTLINE_PORT_9464_TCP": "tcp://10.0.0.7:9464",
        "FAULTLINE_PORT_9464_TCP_ADDR": "10.0.0.7",
        "FAULTLINE_WORKER_SERVICE_HOST": "10.0.0.8",
        "FAULTLINE_WORKER_PORT_9464_TCP_PROTO": "tcp",
    }.items():
        monkeypatch.setenv(name, value)
    load_settings()
    assert "FAULTLINE_PORT is no setting" in refused(monkeypatch, FAULTLINE_PORT="9464")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SASL_USERNAME": "worker"}, "FAULTLINE_SASL_USERNAME is set, but FAULTLINE_SECURITY_PROTOCOL PLAINTEXT"),
        ({"SASL_PASSWORD": SECRET}, "FAULTLINE_SASL_PASSWORD is set, but FAULTLINE_SECURITY_PROTOCOL PLAINTEXT"),
        ({"SASL_PASSWORD_FILE": "x"}, "FAULTLINE_SASL_PASSWORD_FILE is set, but"),
        ({"SASL_MECHANISM": "PLAIN"}, "FAULTLINE_SASL_MECHANISM is set, but .* does not log in; set it to SASL_SSL"),
        ({"SECURITY_PROTOCOL": "SSL", "SASL_USERNAME": "worker"}, "FAULTLINE_SASL_USERNAME .* SSL does not log in"),
        ({"SSL_CAFILE": "ca.pem"}, "FAULTLINE_SSL_CAFILE .* PLAINTEXT does not encrypt; set it to SSL or SASL_SSL"),
        ({"SSL_CHECK_HOSTNAME": "true"}, "FAULTLINE_SSL_CHECK_HOSTNAME is set, but"),
        ({"SSL_KEY_PASSWORD": SECRET}, "FAULTLINE_SSL_KEY_PASSWORD is set, but"),
        ({"SECURITY_PROTOCOL": "SSL", "SSL_KEY_PASSWORD": SECRET}, "but FAULTLINE_SSL_CERTFILE"),
        ({"SCHEMA_REGISTRY_USERNAME": "reader"}, "FAULTLINE_SCHEMA_REGISTRY_USERNAME is set, but"),
        ({"SCHEMA_REGISTRY": "http://a:1", "SCHEMA_REGISTRY_PASSWORD": SECRET}, "without FAULTLINE_SCHEMA_REGISTRY_U"),
        ({"MQTT_PASSWORD": SECRET}, "FAULTLINE_MQTT_PASSWORD is set without FAULTLINE_MQTT_USERNAME"),
        ({"MQTT_USERNAME": "a", "MQTT_PASSWORD": SECRET, "MQTT_PASSWORD_FILE": "x"}, "both set; unset one"),
        ({"WEB_PORT": "70000"}, "FAULTLINE_WEB_PORT '70000': .*less than or equal to 65535 .*0 takes a free port"),
        ({"STATE_REFUSED": "freshly"}, "FAULTLINE_STATE_REFUSED 'freshly': .*'fresh' or 'warm_up'"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    text = refused(monkeypatch, **{f"FAULTLINE_{name}": value for name, value in variables.items()})
    assert re.search(said, text), text


def test_every_variable_that_the_repository_names_is_known() -> None:
    """What documents, compose files and scripts name must be accepted, and no list may name what nobody uses."""
    folders = [
        "deploy",
        "docs",
        ".github",
        "agents",
        "models",
        "pipeline",
        "tests/support",
        "tests/soak",
        "tests/kafka",
    ]
    files = [ROOT / "Makefile", ROOT / "README.md"]
    kinds = {".md", ".py", ".yaml", ".yml", ".sh", ""}
    files += [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file() and path.suffix in kinds]
    own = ROOT / "pipeline" / "config" / "environment.py"
    named = {
        name
        for path in files
        if path != own and "__pycache__" not in path.parts
        for name in re.findall(r"\bFAULTLINE_[A-Z][A-Z0-9_]*[A-Z0-9]\b(?![{*_])", path.read_text("utf-8", "replace"))
    }
    known = OTHER_VARIABLES | {f"FAULTLINE_{name.upper()}" for name in Settings.model_fields}
    assert named - known <= {"FAULTLINE_SECURITY_PROTOCOLL"}
    assert named >= OTHER_VARIABLES


def commands() -> list[list[str]]:
    found = []
    for name, command in sorted(get_command(app).commands.items()):  # type: ignore[attr-defined]
        found += [[name, *sub] for sub in ([[one] for one in sorted(getattr(command, "commands", {}))] or [[]])]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_no_command_begins_with_an_unknown_variable_and_all_show_their_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    monkeypatch.setenv("FAULTLINE_SECURITY_PROTOCOLL", "SASL_SSL")
    assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0
    file = tmp_path / "file"
    file.write_text("{}")
    needed = {
        "baseline": [str(file)],
        "convert": [str(file), "--data", str(tmp_path), "--out", str(tmp_path / "out")],
        "evaluate": [str(file), "--data", str(tmp_path), "--out", str(tmp_path / "out")],
        "explain": ["te-1:1:0123456789ab:0"],
        "record": ["--out", str(tmp_path / "out")],
        "replay": [str(file)],
        "stress": [str(file)],
        "train": [str(file)],
        "train-area": [str(tmp_path), "--out", str(tmp_path / "out")],
        "machines end": ["te-1"],
        "machines forget": ["te-1"],
        "machines reset": ["te-1"],
        "machines why": ["te-1"],
        "why": ["te-1"],
        "bench drift": ["runs.parquet"],
        "unknown name": ["1", "leak"],
        "alarms ack": ["te-1", "--by", "anna", "--why", "seen"],
        "alarms comment": ["te-1", "--by", "anna", "--why", "seen"],
        "alarms configure": ["on_delay=2m", "--by", "anna", "--why", "seen"],
        "alarms shelve": ["te-1", "--by", "anna", "--why", "seen", "--for", "2h"],
        "alarms suppress": ["te-1", "--by", "anna", "--why", "seen"],
        "alarms unshelve": ["te-1", "--by", "anna", "--why", "seen"],
        "alarms unsuppress": ["te-1", "--by", "anna", "--why", "seen"],
        "incidents add": ["--machine", "te-1", "--fault", "leak", "--from", "2026-11-03T14:05"],
        "report": [str(file), "--out", str(tmp_path / "out")],
        "labels add": ["--machine", "te-1", "--fault", "leak", "--from", "2026-11-03T14:05"],
        "sources try": ["skab", "--topic", "x"],
    }
    done = CliRunner().invoke(app, [*command, *needed.get(" ".join(command), [])])
    assert isinstance(done.exception, SettingsError), done.output
    assert "FAULTLINE_SECURITY_PROTOCOL meant?" in str(done.exception)
