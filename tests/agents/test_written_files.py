"""Files that commands write: nothing that exists is replaced unasked, and no half of a file is left."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from agents.audit.certificate import Certificate, read_certificate, write_certificate
from agents.audit.verify import VerifyReport
from agents.cli import audit
from pipeline.errors import RecordingError
from pipeline.wire.recording import new_recording, read_recording
from tests.support.builders import numbered, reading
from tests.support.commands import assert_one_line, faultline

RECORDS = numbered(reading("p1", 1_000 * n, [1.0, 2.0]) for n in range(50))


@pytest.mark.parametrize("option", ["--record", "--certify"])
def test_a_worker_replaces_no_file_unasked(tmp_path: Path, option: str) -> None:
    path = tmp_path / "kept.parquet"
    path.write_text("kept")
    done = faultline("run", option, path, "--broker", "kafka://127.0.0.1:1")
    assert_one_line(done, f"{option} {path} exists; name another file, or replace it with --force")
    assert_one_line(faultline("run", option, tmp_path, "--broker", "kafka://127.0.0.1:1"), "is a folder")
    # With --force it goes on to the broker, which is not there, and the file is still what it was.
    assert_one_line(faultline("run", option, path, "--force", "--broker", "memory://x"), "a worker needs")
    assert path.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_recorded_before_a_failure_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    with pytest.raises(RuntimeError, match="stop"), new_recording(path, keep_on_error=True) as writer:
        writer.write(RECORDS)
        assert not path.exists()
        raise RuntimeError("stop")
    assert list(read_recording(path)) == RECORDS
    with pytest.raises(RuntimeError, match="at once"), new_recording(path, keep_on_error=True):
        raise RuntimeError("at once")
    assert list(read_recording(path)) == RECORDS, "nothing has been written, so the old one stays"
    with pytest.raises(RuntimeError, match="stop"), new_recording(path) as writer:
        writer.write(RECORDS[:3])
        raise RuntimeError("stop")
    assert list(read_recording(path)) == RECORDS
    assert list(tmp_path.iterdir()) == [path]


def test_a_recording_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "below.parquet", tmp_path / ("n" * 300), tmp_path):
        with pytest.raises(RecordingError, match="cannot write recording") as raised, new_recording(path):
            pass
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["model.faultline", "fusion.checkpoint", "scores.json", "history.jsonl"])
def test_training_into_a_used_folder_is_refused(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("kept")
    config = tmp_path / "train.yaml"
    config.write_text("profile: tennessee_eastman\nrecordings: [nowhere.parquet]\noutput: out\n")
    done = faultline("train", config, "--out", out)
    assert_one_line(done, f"--out {out} has results of a training ({name})")
    assert "--force" in done.stderr and "--resume" in done.stderr
    for option in ("--force", "--resume"):  # it goes on to the data, which is not there
        assert_one_line(faultline("train", config, "--out", out, option), "nowhere.parquet")
    assert (out / name).read_text() == "kept"


def test_a_certificate_is_replaced_in_one_piece_and_read_with_care(tmp_path: Path) -> None:
    path = tmp_path / "certificate"
    certificate = Certificate("m=1", {"p1:1": ("leak", {"leak": 0.5, "normal": 0.5})}, {"p1": "5" * 64})
    write_certificate(path, certificate)
    assert read_certificate(path) == certificate
    assert list(tmp_path.iterdir()) == [path]
    whole = path.read_bytes()
    for content in (whole[:50], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(RecordingError, match="is not a certificate of `faultline replay --certify`") as raised:
            read_certificate(path)
        assert "\n" not in str(raised.value)
    path.write_bytes(whole)
    schema = pq.read_schema(path)
    for head in (b"[" * 100_000, b"{}", b'{"model": 5, "states": {}}', b"\xff"):
        pq.write_table(schema.with_metadata({b"faultline-certificate": head}).empty_table(), path)
        with pytest.raises(RecordingError, match="is not a certificate"):
            read_certificate(path)
    with new_recording(path) as writer:
        writer.write(RECORDS)
    with pytest.raises(RecordingError, match="it has other columns"):
        read_certificate(path)


def test_verify_does_not_say_proven_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "verify_topics", lambda *_, **__: VerifyReport())
    done = faultline("verify")
    assert done.returncode == audit.NOTHING_TO_VERIFY == 3
    assert "NOTHING TO VERIFY: there are no diagnoses" in done.stdout
    assert "proven:" not in done.stdout
    done = faultline("verify", "--json")
    assert done.returncode == 3
    assert '"proven": false' in done.stdout and '"empty": true' in done.stdout
