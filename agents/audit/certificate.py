"""Certificates: the diagnoses and alignment states of a run, to the last bit, to compare other runs with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.topics import ALARMS, DIAGNOSES, DRIFT
from pipeline.engine.engine import Engine
from pipeline.engine.reports.drift_report import decode_drift_report
from pipeline.engine.reports.lifecycle.records import decode_alarm
from pipeline.errors import RecordingError
from pipeline.files.atomic_file import replacing
from pipeline.files.parquet import UNREADABLE, bounded_batches, one_line, open_parquet
from pipeline.frames import StepRunner
from pipeline.wire.messages import decode_diagnosis
from pipeline.wire.records import Output

_KEY = b"faultline-certificate"
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("fault", pa.string(), nullable=False),
        pa.field("probabilities", pa.map_(pa.string(), pa.float64()), nullable=False),
    ]
)


class _Head(msgspec.Struct):
    model: str
    states: dict[str, str]
    drift: dict[str, str] = {}
    alarms: dict[str, str] = {}


_decode_head = msgspec.json.Decoder(_Head).decode


@dataclass(frozen=True)
class Certificate:
    """Fault and probabilities by diagnosis id; hashes of each machine's final alignment state, and of drift reports and
    records of alarms by their id.

    Alarms that are only raised and cleared follow from the diagnoses and are left out.
    """

    model: str
    diagnoses: dict[str, tuple[str, dict[str, float]]]
    states: dict[str, str]
    drift: dict[str, str] = field(default_factory=dict)
    alarms: dict[str, str] = field(default_factory=dict)

    def differences(self, other: Certificate) -> list[str]:
        """How another run differs, a sentence each; empty if the two are equal."""
        found = []
        if self.model != other.model:
            found.append(f"the models differ: {self.model} and {other.model}")
        missing, extra = (
            sorted(self.diagnoses.keys() - other.diagnoses.keys()),
            sorted(other.diagnoses.keys() - self.diagnoses.keys()),
        )
        if missing:
            found.append(f"{len(missing)} diagnoses are missing, such as {missing[0]}")
        if extra:
            found.append(f"{len(extra)} diagnoses are new, such as {extra[0]}")
        both = sorted(self.diagnoses.keys() & other.diagnoses.keys())
        faults = [id_ for id_ in both if self.diagnoses[id_][0] != other.diagnoses[id_][0]]
        if faults:
            found.append(f"{len(faults)} diagnoses have another fault, such as {faults[0]}")
        different = [id_ for id_ in both if self.diagnoses[id_][1] != other.diagnoses[id_][1]]
        if different:
            found.append(f"{len(different)} diagnoses have other probabilities, such as {different[0]}")
        states = [name for name, state in self.states.items() if other.states.get(name) != state]
        if states or self.states.keys() != other.states.keys():
            shown = states[0] if states else sorted(self.states.keys() ^ other.states.keys())[0]
            found.append(f"the alignment state of {max(len(states), 1)} machines differs, such as {shown}")
        reports = sorted(name for name, _ in self.drift.items() ^ other.drift.items())
        if reports:
            found.append(f"{len(set(reports))} drift reports differ, such as {reports[0]}")
        alarms = sorted(name for name, _ in self.alarms.items() ^ other.alarms.items())
        if alarms:
            found.append(f"{len(set(alarms))} records of alarms differ, such as {alarms[0]}")
        return found

    @property
    def digest(self) -> str:
        """Hash of all that is compared: ids, faults, probabilities, states, drift and alarms."""
        parts = [[id_, *answer] for id_, answer in sorted(self.diagnoses.items())]
        compared = [self.model, parts, sorted(self.states.items())]
        if self.drift:  # certificates from before there was drift have the digest that they had
            compared.append(sorted(self.drift.items()))
        if self.alarms:
            compared.append(["alarms", *sorted(self.alarms.items())])
        text = json.dumps(compared)
        return hashlib.sha256(text.encode()).hexdigest()


class CertificateBuilder:
    """Collects a certificate during a run."""

    def __init__(self, runners: Mapping[str, StepRunner]) -> None:
        self._model = ", ".join(f"{name}={runner.hash}" for name, runner in sorted(runners.items()))
        self._diagnoses: dict[str, tuple[str, dict[str, float]]] = {}
        self._states: dict[str, str] = {}
        self._drift: dict[str, str] = {}
        self._alarms: dict[str, str] = {}
        self._alarms_have_life = False

    def add(self, outputs: Iterable[Output]) -> None:
        """Take outputs of the engine."""
        for output in outputs:
            if output.topic == DIAGNOSES:
                diagnosis = decode_diagnosis(output.value or b"")
                self._diagnoses[diagnosis.id] = diagnosis.fault, diagnosis.probabilities
            elif output.topic == DRIFT:
                value = output.value or b""
                self._drift[decode_drift_report(value).id] = hashlib.sha256(value).hexdigest()
            elif output.topic == ALARMS:
                value = output.value or b""
                alarm = decode_alarm(value)
                self._alarms[alarm.id] = hashlib.sha256(value).hexdigest()
                self._alarms_have_life |= alarm.state not in ("raised", "cleared") or alarm.suppressed is not None

    def finish(self, engine: Engine) -> None:
        """Take the states at the end of the run."""
        states = engine.alignment_states().items()
        self._states = {name: hashlib.sha256(state).hexdigest() for name, state in states}

    @property
    def certificate(self) -> Certificate:
        """The certificate of what was added."""
        alarms = dict(self._alarms) if self._alarms_have_life else {}
        return Certificate(self._model, dict(self._diagnoses), dict(self._states), dict(self._drift), alarms)


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write a certificate; raises RecordingError if the file cannot be written."""
    ids = sorted(certificate.diagnoses)
    columns: Sequence[object] = (
        ids,
        [certificate.diagnoses[id_][0] for id_ in ids],
        [list(certificate.diagnoses[id_][1].items()) for id_ in ids],
    )
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    described = {"model": certificate.model, "states": certificate.states}
    if certificate.drift:  # releases from before there was drift read the others
        described["drift"] = certificate.drift
    if certificate.alarms:
        described["alarms"] = certificate.alarms
    head = json.dumps(described).encode()
    try:
        with replacing(path) as part:
            pq.write_table(pa.table(arrays, schema=_SCHEMA.with_metadata({_KEY: head})), part, compression="zstd")
    except OSError as error:
        raise RecordingError(f"cannot write certificate {path}: {error}") from error


def read_certificate(path: Path) -> Certificate:
    """Read a certificate; raises RecordingError if the file is not one."""
    diagnoses: dict[str, tuple[str, dict[str, float]]] = {}
    try:
        with open_parquet(path) as file:
            if not file.schema_arrow.equals(_SCHEMA):
                raise ValueError("it has other columns")
            head = _decode_head((file.schema_arrow.metadata or {}).get(_KEY, b""))
            for batch in bounded_batches(file, path):
                rows = zip(*(batch.column(name).to_pylist() for name in _SCHEMA.names), strict=True)
                diagnoses.update((id_, (fault, dict(shares))) for id_, fault, shares in rows)
    except (*UNREADABLE, RecursionError) as error:
        raise RecordingError(
            f"{path} is not a certificate of `faultline replay --certify`: {one_line(error)}; name another file"
        ) from error
    return Certificate(head.model, diagnoses, head.states, head.drift, head.alarms)
