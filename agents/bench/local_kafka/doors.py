"""Guarded ways into the tests' broker: listeners with TLS and logins, and the certificates that they take."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}

# A configuration of our own: the system's may add extensions that clash with these.
_REQUEST = """\
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = {name}
[extensions]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
{extensions}
"""


@dataclass(frozen=True)
class Door:
    """How clients get in: Kafka's security protocol, SASL mechanism, and whether they must show a certificate."""

    protocol: str
    mechanism: str | None = None
    client_certificate: bool = False


class Certificates:
    """An authority of our own and what it has signed, as PEM files that `openssl` makes in a folder."""

    def __init__(self, folder: Path, host: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._host = host
        self.ca = self._authority("authority")
        self.other_ca = self._authority("other-authority")
        self.server = self._signed("server", f"subjectAltName = IP:{host}", ca=self.ca)

    def client(self, name: str, *, key_password: str | None = None, of_other_ca: bool = False) -> tuple[Path, Path]:
        """Certificate and key with which a client is `User:CN=name`."""
        ca = self.other_ca if of_other_ca else self.ca
        return self._signed(name, "extendedKeyUsage = clientAuth", ca=ca, key_password=key_password)

    def keystore(self) -> Path:
        """The server's key and certificates in one file, as Kafka wants them."""
        store = self._folder / "keystore.pem"
        certificate, key = self.server
        store.write_text(key.read_text() + certificate.read_text() + self.ca.read_text())
        return store

    def _authority(self, name: str) -> Path:
        extensions = "basicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign"
        return self._make(name, extensions, ["-nodes"])[0]

    def _signed(self, name: str, extensions: str, *, ca: Path, key_password: str | None = None) -> tuple[Path, Path]:
        protection = ["-nodes"] if key_password is None else ["-passout", f"pass:{key_password}"]
        signing = ["-CA", str(ca), "-CAkey", str(ca.with_suffix(".key"))]
        return self._make(name, f"basicConstraints = critical, CA:FALSE\n{extensions}", [*protection, *signing])

    def _make(self, name: str, extensions: str, options: list[str]) -> tuple[Path, Path]:
        request, certificate, key = (self._folder / f"{name}.{ending}" for ending in ("cnf", "pem", "key"))
        request.write_text(_REQUEST.format(name=name, extensions=extensions))
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-config", str(request), "-days", "2", "-out", str(certificate), "-keyout", str(key)),
                *options,
            ],
            check=True,
            capture_output=True,
        )
        return certificate, key


def door_properties(doors: Mapping[str, Door], certificates: Certificates | None) -> dict[str, str]:
    """The part of server.properties that guards each door; passwords of SCRAM stand in the broker's metadata."""
    properties: dict[str, str] = {}
    for name, door in doors.items():
        listener = f"listener.name.{name}"
        if door.mechanism is not None:
            properties[f"{listener}.sasl.enabled.mechanisms"] = door.mechanism
            if door.mechanism != "PLAIN":
                prefix = f"{listener}.{door.mechanism.lower()}"
                properties[f"{prefix}.sasl.jaas.config"] = f"{MODULES[door.mechanism]} required;"
        if "SSL" in door.protocol:
            assert certificates is not None
            properties |= {
                f"{listener}.ssl.keystore.type": "PEM",
                f"{listener}.ssl.keystore.location": str(certificates.keystore()),
                f"{listener}.ssl.truststore.type": "PEM",
                f"{listener}.ssl.truststore.location": str(certificates.ca),
                f"{listener}.ssl.client.auth": "required" if door.client_certificate else "none",
            }
    return properties
