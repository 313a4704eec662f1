"""Every example of the reference of forms: the form is valid, and its record reads as the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pipeline.config.form import Form, Place, QualityPlace, TimePlace
from tests.support.forms import foreign_record, lines_of, reader_of

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "guide" / "forms.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"```yaml\n(form:.*?)```\n+```text\n(.*?)```\n+```text\n(.*?)```", re.DOTALL)


class Example(NamedTuple):
    """A form, the lines of a record, and what is read from it."""

    form: dict[str, Any]
    record: list[str]
    expected: list[str]


EXAMPLES = [
    Example(yaml.safe_load(form)["form"], record.splitlines(), expected.splitlines())
    for form, record, expected in EXAMPLE.findall(PAGE)
]


def test_all_examples_are_found() -> None:
    assert len(EXAMPLES) == PAGE.count("\nform:") > 15


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: "".join(example.record)[:60])
def test_an_example_reads_as_the_page_says(example: Example) -> None:
    *preceding, value = example.record
    fields: dict[str, Any] = {}
    for line in preceding:
        name, _, content = line.partition(": ")
        assert name in ("key", "topic")
        fields[name] = content.encode() if name == "key" else f"/{content}"
    record = foreign_record(value.encode(), **fields)
    assert lines_of(reader_of(example.form), record) == example.expected


@pytest.mark.parametrize("model", [Form, Place, TimePlace, QualityPlace])
def test_every_option_is_named(model: type[Form | Place | TimePlace | QualityPlace]) -> None:
    missing = [
        field.alias or name for name, field in model.model_fields.items() if f"`{field.alias or name}" not in PAGE
    ]
    assert missing == []
