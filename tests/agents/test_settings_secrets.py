"""Settings of security: what is contradictory is named, files are read, and no secret is ever shown."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.bench.local_kafka.doors import Certificates
from agents.cli.main import app
from agents.kafka.security import client_security, faust_credentials, ssl_context
from pipeline.config.settings import Settings, load_settings
from pipeline.errors import SettingsError

SECRET = "hunter2-never-shown"
LOGIN = {"security_protocol": "SASL_SSL", "sasl_username": "worker"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"), "127.0.0.1")


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n"])
def test_a_password_is_read_from_its_file(tmp_path: Path, content: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content.encode())
    settings = load_settings(**LOGIN, sasl_password_file=file)
    assert client_security(settings)["sasl_plain_password"] == SECRET
    assert faust_credentials(settings).password == SECRET


def test_spaces_may_belong_to_a_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" two words \n")
    assert client_security(load_settings(**LOGIN, sasl_password_file=file))["sasl_plain_password"] == " two words "


@pytest.mark.parametrize(("content", "problem"), [(None, "No such file"), (b"\n", "is empty"), (b"\xff\xfe", "UTF-8")])
def test_a_password_file_that_is_of_no_use_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=f"FAULTLINE_SASL_PASSWORD_FILE {file}.*{problem}"):
        client_security(load_settings(**LOGIN, sasl_password_file=file))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"security_protocol": "SASL_SSL", "sasl_username": "worker"}, "FAULTLINE_SASL_PASSWORD_FILE"),
        ({"security_protocol": "SASL_PLAINTEXT", "sasl_password": SECRET}, "FAULTLINE_SASL_USERNAME"),
        ({**LOGIN, "sasl_password": SECRET, "sasl_password_file": "x"}, "both set"),
        ({"ssl_key_password": SECRET, "ssl_key_password_file": "x"}, "both set"),
        ({**LOGIN, "security_protocol": "SASL_PLAINTEXT", "sasl_password": SECRET, "ssl_cafile": "x"}, "SSL"),
        ({"ssl_certfile": "x"}, "does not encrypt"),
        ({"security_protocol": "SSL", "ssl_keyfile": "x"}, "FAULTLINE_SSL_KEYFILE is set, but FAULTLINE_SSL_CERTFILE"),
        ({"security_protocol": "TLS"}, "FAULTLINE_SECURITY_PROTOCOL"),
        ({**LOGIN, "sasl_password": SECRET, "sasl_mechanism": "MD5"}, "FAULTLINE_SASL_MECHANISM"),
        ({**LOGIN, "sasl_password": SECRET, "broker": f"kafka://worker:{SECRET}@broker:9092"}, "a login belongs in"),
    ],
)  # fmt: skip
def test_contradictory_settings_are_named_without_the_secret(settings: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        load_settings(**settings)
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


def test_settings_never_show_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LOGIN.items():
        monkeypatch.setenv(f"FAULTLINE_{name.upper()}", value)
    monkeypatch.setenv("FAULTLINE_SSL_CERTFILE", "certificate.pem")
    for name in ("SASL_PASSWORD", "SSL_KEY_PASSWORD"):
        monkeypatch.setenv(f"FAULTLINE_{name}", SECRET)
    settings = load_settings()
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert SECRET not in shown
    shown = CliRunner().invoke(app, ["settings"]).output
    assert SECRET not in shown
    assert "FAULTLINE_SASL_PASSWORD_FILE" in shown


def test_every_setting_of_security_says_what_it_means() -> None:
    names = [name for name in Settings.model_fields if name.startswith(("sasl_", "ssl_", "security_"))]
    assert len(names) == 11
    for name in names:
        assert Settings.model_fields[name].description, name


def test_the_web_server_listens_on_loopback_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAULTLINE_WEB_HOST", raising=False)
    assert load_settings().web_host == "127.0.0.1"


def test_tls_checks_the_brokers_certificate_and_its_host(certificates: Certificates) -> None:
    context = ssl_context(load_settings(security_protocol="SSL", ssl_cafile=certificates.ca))
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    lax = ssl_context(load_settings(security_protocol="SSL", ssl_cafile=certificates.ca, ssl_check_hostname=False))
    assert lax is not None
    assert lax.verify_mode == ssl.CERT_REQUIRED
    assert not lax.check_hostname
    assert ssl_context(load_settings()) is None


def test_a_ca_file_that_is_of_no_use_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"FAULTLINE_SSL_CAFILE .*nowhere.pem: No such file"):
        ssl_context(load_settings(security_protocol="SSL", ssl_cafile="nowhere.pem"))
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(SettingsError, match=f"FAULTLINE_SSL_CAFILE {empty}"):
        ssl_context(load_settings(security_protocol="SSL", ssl_cafile=empty))


def test_a_locked_key_needs_its_password(certificates: Certificates, tmp_path: Path) -> None:
    certificate, key = certificates.client("locked", key_password=SECRET)
    files = {"security_protocol": "SSL", "ssl_certfile": certificate, "ssl_keyfile": key}
    file = tmp_path / "password"
    file.write_text(SECRET + "\n")
    assert ssl_context(load_settings(**files, ssl_key_password=SECRET)) is not None
    assert ssl_context(load_settings(**files, ssl_key_password_file=file)) is not None
    for wrong in ({}, {"ssl_key_password": f"not-{SECRET}"}):
        with pytest.raises(SettingsError, match=f"FAULTLINE_SSL_KEYFILE {key}.*FAULTLINE_SSL_KEY_PASSWORD") as raised:
            ssl_context(load_settings(**files, **wrong))
        assert SECRET not in str(raised.value)


def test_a_key_of_another_certificate_is_refused(certificates: Certificates) -> None:
    certificate, _ = certificates.client("one")
    _, key = certificates.client("other")
    with pytest.raises(SettingsError, match=f"FAULTLINE_SSL_CERTFILE {certificate}.*they match"):
        ssl_context(load_settings(security_protocol="SSL", ssl_certfile=certificate, ssl_keyfile=key))
