"""What a process may write of its run: a recording of what it reads, and a certificate of what it says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agents.audit.certificate import CertificateBuilder, Hashed, write_certificate
from agents.worker.states.engine import Observer
from pipeline.wire.recording import RecordingWriter
from pipeline.wire.records import Output, Record

log = logging.getLogger("faultline.service")


class RunRecord:
    """A recording and a certificate of one run: replaying the one must reproduce the other."""

    def __init__(self, runners: Mapping[str, Hashed], recorder: RecordingWriter | None, certify: Path | None) -> None:
        """`recorder` takes inputs in the order in which they were processed, `certify` is the certificate's file."""
        self._recorder = recorder
        self._path = certify
        self._builder = None if certify is None else CertificateBuilder(runners)

    @property
    def observer(self) -> Observer | None:
        """What has to see the run; None if nothing is to be written."""
        return self._observe if self._recorder is not None or self._builder is not None else None

    def _observe(self, records: Sequence[Record], outputs: Sequence[Output]) -> None:
        if self._recorder is not None:
            self._recorder.write(records)
        if self._builder is not None:
            self._builder.add(outputs)

    def certify(self, complete: Callable[[CertificateBuilder], None], restored: int, keys: str) -> None:
        """The run has ended: write the certificate if there is to be one. `complete` adds the final states; `restored`
        is how many `keys`, such as machines, began with saved ones."""
        if self._builder is None or self._path is None:
            return
        if restored:
            log.warning(
                "%d %s started from saved states, so a replay cannot reproduce this certificate", restored, keys
            )
        complete(self._builder)
        write_certificate(self._path, self._builder.certificate)
