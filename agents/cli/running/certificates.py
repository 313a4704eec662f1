"""Certificates of runs on the command line: compared with the file, or written if there is none."""

from __future__ import annotations

from pathlib import Path

from agents.audit.certificate import Certificate, read_certificate, write_certificate
from agents.cli.views.printable import say
from pipeline.errors import CertificateError


def compare_or_write(certificate: Certificate, path: Path) -> None:
    """Compare with the certificate of this file, or write it; raises CertificateError if they differ."""
    if not path.exists():
        write_certificate(path, certificate)
        say(f"certificate {path} written: {certificate.digest}", err=True)
        return
    problems = read_certificate(path).differences(certificate)
    if problems:
        raise CertificateError(f"this run differs from certificate {path}: {'; '.join(problems)}")
    say(f"equal to certificate {path}: {certificate.digest}", err=True)
