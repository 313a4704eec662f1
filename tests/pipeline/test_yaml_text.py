"""YAML from others: wrong and hostile texts are refused in one line that names the file, before anything is built."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.replay.tables.description import load_conversion
from models.configs.yaml_file import read_mapping
from models.training.config import load_train_config
from pipeline.config.profile import load_profile, parse_profile
from pipeline.errors import DataError, FaultlineError, ProfileError
from pipeline.files.yaml_text import MAX_BYTES, YamlError, parse_yaml
from tests.support.bounded import assert_refused, run_bounded
from tests.support.builders import ONE_SOURCE

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)
MERGES = "a0: &a0 {k0: 1}\n" + "".join(
    f"a{n}: &a{n} {{k{n}: 1, <<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 30)
)

HOSTILE = {
    "lists": ("[" * 20_000, "line 1, column 65: is nested deeper than 64 levels"),
    "mappings": ("{a: " * 100_000, "nested deeper"),
    "indented": ("".join(" " * n + "a:\n" for n in range(500)), "line 64, column 64: is nested deeper"),
    "dashes": ("- " * 10_000 + "x", "nested deeper"),
    "laughs": (LAUGHS, "has more than 100,000 values"),
    "merges": (MERGES, "has more than 100,000 values"),
    "recursive": ("a: &a [*a]", "column 8: an alias stands inside what it names"),
    "recursive_merge": ("a: &a\n  <<: *a", "an alias stands inside"),
    "unknown_alias": ("a: *b", "found undefined alias 'b'"),
    "duplicate": ("plant: a\nmachine_types: []\nplant: b", "line 3, column 1: key 'plant' stands here again; it is in"),
    "duplicate_deep": ("a:\n  - {b: 1, c: 2, 'b': 3}", "line 2, column 18: key 'b' stands here again"),
    "digits": ("a: " + "9" * 5_000, "without quotes has more than 4,096 characters"),
    "large": ("a: 0x" + "f" * 17, "is a whole number of more than 64 bits"),
    "sexagesimal": ("a: " + ":".join(["59"] * 1_000), "more than 64 bits"),
    "integer": ("a: !!int x", "'x' looks like a value of type int but is none"),
    "surrogate": ('a: "\\ud800"', "line 1, column 4: a text holds half of a character"),
    "date": ("a: 2025-13-45", "'2025-13-45' looks like a value of type timestamp but is none"),
    "moment": ("a: 2025-01-01T99:00:00Z", "looks like a value of type timestamp"),
    "tag": ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    "unhashable": ("? [a]\n: b", "unhashable"),
    "two": ("a: 1\n---\nb: 2", "expected a single document"),
    "control": ("a: \x07", "special characters are not allowed"),
    "broken": ("a: [1, 2", "expected ',' or ']'"),
    "binary": ("a: !!binary 'xyz'", "failed to decode base64 data"),
    "values": ("[" + "1," * 100_000 + "1]", "has more than 100,000 values"),
}

DOORS: dict[str, tuple[Callable[[Path], object], type[FaultlineError]]] = {
    "profile": (load_profile, ProfileError),
    "conversion": (load_conversion, DataError),
    "training": (load_train_config, DataError),
    "experiment": (lambda path: read_mapping(path, "experiment"), DataError),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    text, said = HOSTILE[name]
    with pytest.raises(YamlError) as raised:
        parse_yaml(text)
    assert said in str(raised.value)
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    for load, error in DOORS.values() if name != "values" else ():  # reading so many takes seconds
        with pytest.raises(error) as refused:
            load(path)
        assert str(path) in str(refused.value) and said in str(refused.value)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 1_000


@pytest.mark.parametrize("name", ["lists", "laughs", "merges", "digits"])
def test_a_bomb_costs_no_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(HOSTILE[name][0])
    done = run_bounded("from pipeline.config.profile import load_profile", f"load_profile({str(path)!r})", mib=64)
    assert_refused(done, "ProfileError", str(path), HOSTILE[name][1])


@pytest.mark.parametrize(("door", "entry"), DOORS.items(), ids=list(DOORS))
def test_only_regular_files_of_moderate_size_are_read(
    tmp_path: Path, door: str, entry: tuple[Callable[[Path], object], type[FaultlineError]]
) -> None:
    load, error = entry
    pipe, folder, large, latin = (tmp_path / name for name in ("pipe", "folder", "large", "latin"))
    os.mkfifo(pipe)
    folder.mkdir()
    with large.open("wb") as file:
        file.truncate(2 * 10**9)
    latin.write_bytes("plant: Säge".encode("latin-1"))
    for path, said in (
        (pipe, "it is not a regular file"),
        (Path("/dev/zero"), "it is not a regular file"),
        (folder, "it is a folder"),
        (large, f"it has more than {MAX_BYTES:,} bytes"),
        (latin, "byte 8 is not UTF-8"),
        (tmp_path / "nowhere", "No such file"),
        (tmp_path / ("n" * 300), "File name too long"),
        (tmp_path / "zero\0byte", "embedded null byte"),
    ):
        with pytest.raises(error, match=said) as raised:
            load(path)
        assert "\n" not in str(raised.value), door


def test_a_large_file_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(2 * 10**9)
    done = run_bounded("from pipeline.config.profile import load_profile", f"load_profile({str(path)!r})", mib=64)
    assert_refused(done, "ProfileError", "it has more than 4,194,304 bytes")


def test_what_people_write_is_read_as_before() -> None:
    text = """
defaults: &defaults {aggregation: mean, source: sensors}
variables:
  - {<<: *defaults, name: flow}
  - {<<: *defaults, name: load, aggregation: max}
note: >
  A long text
  over two lines.
on: yes
"""
    found = parse_yaml(text)
    assert found["variables"][1] == {"aggregation": "max", "source": "sensors", "name": "load"}
    assert found["note"] == "A long text over two lines.\n"
    assert parse_yaml("") is None
    assert parse_yaml("a: '" + "x" * 100_000 + "'")["a"] == "x" * 100_000
    assert parse_yaml("\ufeffa: 18446744073709551615") == {"a": 2**64 - 1}


def test_aliases_do_not_weaken_a_profiles_checks() -> None:
    text = ONE_SOURCE.replace("{name: flow}, {name: load}", "&flow {name: flow}, *flow")
    with pytest.raises(ProfileError, match="flow"):
        parse_profile(text, where="test")
