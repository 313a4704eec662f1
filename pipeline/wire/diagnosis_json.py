"""Writes the diagnoses of a round as JSON into one buffer, in compiled code: names are copied, numbers are written.

The bytes are those that `messages.encode` gives for the same diagnosis (docs/guide/messages.md has the form).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Bools, Floats, Ints
from pipeline.compiled import CompiledFunction, Notify, kernel
from pipeline.wire import diagnosis_columns
from pipeline.wire.diagnosis_columns import (
    AGE_MS,
    CONFIDENCE,
    DEVIATIONS,
    DISAGREEMENT,
    END_MS,
    ENTROPY,
    FAULT,
    OWN_CONFIDENCE,
    OWN_FAULT,
    PRESENT,
    REMAINING_NUMBERS,
    RESET,
    REVISION,
    SILENT,
    START_MS,
    TOP,
    TOP_VARIABLES,
    UNDEFINED,
    UNIT,
    VARIABLES,
    WEIGHT,
    Parts,
    first_probability,
    modality_column,
)
from pipeline.wire.json import memory
from pipeline.wire.json import numbers as json_numbers
from pipeline.wire.json.memory import address_of, ends_of, load_byte
from pipeline.wire.json.numbers import (
    copy,
    is_plain,
    write_decimal,
    write_float32,
    write_letter,
    write_units,
    write_whole_number,
)
from pipeline.wire.messages import MIN_PROBABILITY, ModelRef, encode

# Operations of a form. Most copy a piece of text, then write what the column of the row holds.
_COPY: Final = 0  # nothing
_CHOOSE: Final = 1  # the piece that is copied is so far behind the given one
_NUMBER: Final = 2  # a whole number; UNDEFINED as null
_OPTIONAL: Final = 3  # a number with up to five decimals; neither text nor number if it is UNDEFINED
_UNITS: Final = 4  # a number with five decimals
_SHARE: Final = 5  # the same, after a comma except for the first; neither text nor number if it is too small
_VARIABLE: Final = (
    6  # value and deviation, after a comma, of the variable with this place among the notable ones, if any
)
_NAME: Final = 7  # the machine's name, and no text
_TEXTS: Final = 8  # the texts that are remembered; the piece is the end of one in time, behind it that of a late one

_MIN_UNITS: Final = round(MIN_PROBABILITY * UNIT)
_LONGEST_NUMBER: Final = 24
_MINUS, _COMMA, _OBJECT, _LIST, _END = b"-,{[}"

# Pieces that every form has.
_NULL: Final = 0
_DEVIATION: Final = 1


class _Form(NamedTuple):
    """What to write for each row, one operation after the other, and the pieces of text that are copied."""

    operations: Ints
    columns: Ints
    pieces: Ints
    text: int
    """The address of all pieces."""
    ends: Ints
    """Where each piece ends, behind a 0."""


class _Texts(NamedTuple):
    """RoundTexts as compiled code takes them; ends begin with a 0."""

    heads: int
    head_ends: Ints
    age_ms: Ints
    late: Bools
    row_ends: Ints


@dataclass(frozen=True, slots=True)
class RoundTexts:
    """The texts that the machines of a round remember, row after row."""

    heads: Sequence[bytes]
    """Of each text its JSON up to the age."""
    age_ms: Sequence[int]
    late: Sequence[bool]
    counts: Ints
    """How many texts each row has."""


class Names:
    """The machines of a round by their names, which are given as they are written between quotes."""

    def __init__(self, quoted: Sequence[bytes]) -> None:
        self.text = b"".join(quoted)
        self.ends = ends_of(quoted)


class _FormBuilder:
    """Collects operations and pieces."""

    def __init__(self) -> None:
        self._operations: list[tuple[int, int, int]] = []
        self._pieces = [b"null", b',"deviation":']

    def add(self, operation: int, text: bytes = b"", column: int = 0) -> None:
        """An operation that copies one text."""
        self.choose(operation, column, [text])

    def choose(self, operation: int, column: int, texts: Iterable[bytes], first: int = 0) -> None:
        """An operation that copies one of some texts; that at `first` is for 0."""
        self._operations.append((operation, column, len(self._pieces) + first))
        self._pieces += texts

    def form(self) -> tuple[_Form, bytes]:
        """The form, and the text that has to be kept for as long."""
        operations, columns, pieces = np.array(self._operations).T.copy()
        text = b"".join(self._pieces)
        return _Form(operations, columns, pieces, address_of(text), ends_of(self._pieces)), text


def _diagnosis_form(
    model: ModelRef,
    classes: Sequence[str],
    modalities: Sequence[str],
    variables: Sequence[str],
    components: Sequence[str],
    resets: Sequence[str | None],
    no_evidence: str,
    parts: Parts,
) -> tuple[_Form, bytes]:
    form, faults, first = _FormBuilder(), [no_evidence, *classes], first_probability(len(modalities))
    form.add(_COPY, b'{"id":"')
    form.add(_NAME)
    form.add(_NUMBER, b":", END_MS)
    form.add(_NUMBER, b":%b:" % model.hash[:12].encode(), REVISION)
    form.add(_COPY, b'","machine":"')
    form.add(_NAME)
    form.add(_NUMBER, b'","frame_start":', START_MS)
    form.add(_NUMBER, b',"frame_end":', END_MS)
    form.choose(_CHOOSE, FAULT, [b',"fault":%b' % _json(fault) for fault in faults], first=1)
    form.add(_UNITS, b',"confidence":', CONFIDENCE)
    form.add(_COPY, b',"probabilities":{')
    for place, name in enumerate(classes):
        form.add(_SHARE, _json(name) + b":", first + place)
    form.add(_COPY, b'},"modalities":{')
    for index, modality in enumerate(modalities):
        head = (b"," if index else b"") + _json(modality)
        own = [b'%b:{"fault":%b' % (head, _json(fault)) for fault in faults]
        form.choose(_CHOOSE, modality_column(index, OWN_FAULT), own, first=1)
        form.add(_UNITS, b',"confidence":', modality_column(index, OWN_CONFIDENCE))
        form.add(_UNITS, b',"weight":', modality_column(index, WEIGHT))
        form.choose(_CHOOSE, modality_column(index, PRESENT), [b',"present":false', b',"present":true'])
        form.add(_NUMBER, b',"age_ms":', modality_column(index, AGE_MS))
        form.add(_COPY, b"}")
    form.add(_UNITS, b'},"entropy":', ENTROPY)
    form.add(_UNITS, b',"disagreement":', DISAGREEMENT)
    form.add(_COPY, b',"evidence":{"variables":[')
    names = [b'{"name":%b,"value":' % _json(name) for name in variables]
    for place in range(TOP_VARIABLES):
        form.choose(_VARIABLE, place, names)
    form.add(_COPY, b'],"texts":[')
    form.choose(_TEXTS, 0, [b',"late":false}', b',"late":true}'])
    form.choose(_CHOOSE, SILENT, [b']},"status":"%b","reset":' % status for status in (b"active", b"silent")])
    form.choose(_CHOOSE, RESET, [_json(reason) for reason in resets])
    form.add(_NUMBER, b',"revision":', REVISION)
    form.add(_COPY, b',"model":' + encode(model))
    _add_parts(form, classes, parts)
    if parts.components:
        form.add(_COPY, b',"components":{')
        for place, name in enumerate(components):
            form.add(_SHARE, _json(name) + b":", parts.components_at + place)
        form.add(_COPY, b"}")
    form.add(_COPY, b"}")
    return form.form()


def _add_parts(form: _FormBuilder, classes: Sequence[str], parts: Parts) -> None:
    """What only some models have."""
    if parts.attention:
        width = parts.modalities
        for place in range(width * width):
            separator = b"," if place % width else b"],[" if place else b',"attention":[['
            form.add(_UNITS, separator, parts.attention_at + place)
        form.add(_COPY, b"]]")
    if parts.novelty:
        form.add(_OPTIONAL, b',"novelty":', parts.novelty_at)
    if parts.candidates:
        at = parts.candidates_at
        for place, name in enumerate(map(_json, classes), start=1):
            form.choose(_CHOOSE, at + place, [b"", b',"candidates":[' + name, b"," + name])
        form.choose(_CHOOSE, at, [b"", b"]"])
    if parts.remaining:
        at = parts.remaining_at
        heads = (b',"remaining":{"frames":', b',"low":', b',"high":')
        for place in range(REMAINING_NUMBERS):
            form.add(_OPTIONAL, heads[place], at + 1 + place)
        form.choose(_CHOOSE, at, [b"", b"}"])


class RoundWriter:
    """Writes the diagnoses of one model."""

    def __init__(
        self,
        model: ModelRef,
        classes: Sequence[str],
        modalities: Sequence[str],
        variables: Sequence[str],
        components: Sequence[str],
        resets: Sequence[str | None],
        no_evidence: str,
        notify: Notify,
    ) -> None:
        """`resets` are the reasons for a reset by their numbers; `no_evidence` is the fault where there is none."""
        self._notify = notify
        names = classes, modalities, variables, components
        self._form = partial(_diagnosis_form, model, *names, resets, no_evidence)
        self._forms: dict[Parts, tuple[_Form, bytes]] = {}
        self._buffer: NDArray[np.uint8] = np.empty(0, np.uint8)

    def load(self) -> Any:
        """The compiled function, at once if it was loaded before."""
        return _FUNCTION.load(self._notify)

    def write(
        self, numbers: Ints, parts: Parts, values: Floats, names: Names, texts: RoundTexts | None
    ) -> tuple[list[bytes], list[int]]:
        """One diagnosis for each row of `answers.RoundAnswers`, and the rows that have a number of another form.

        `parts` are those of the rows, `values` the frames'. What is written of these other rows is not to be used.
        """
        rows, columns = numbers.shape
        form, text = self._forms.get(parts) or self._forms.setdefault(parts, self._form(parts))
        remembered = texts or RoundTexts((), (), (), np.zeros(rows, np.int64))
        heads = b"".join(remembered.heads)
        bound = 2 * len(names.text) + len(heads) + (rows + len(remembered.heads)) * len(text)
        bound += _LONGEST_NUMBER * (rows * (columns + 3) + len(remembered.heads))
        if bound > len(self._buffer):
            self._buffer = np.empty(bound + bound // 2, np.uint8)
        ends, whole = np.empty(rows, np.int64), np.empty(rows, np.bool_)
        self.load()(
            form,
            numbers,
            np.ascontiguousarray(values, np.float32),
            address_of(names.text),
            names.ends,
            _Texts(
                address_of(heads),
                ends_of(remembered.heads),
                np.array(remembered.age_ms, np.int64),
                np.array(remembered.late, np.bool_),
                np.concatenate([[0], np.cumsum(remembered.counts)]),
            ),
            self._buffer.ctypes.data,
            ends,
            whole,
        )
        places = ends.tolist()
        everything = self._buffer[: places[-1]].tobytes()
        written = [everything[begin:end] for begin, end in zip([0, *places], places, strict=False)]
        return written, np.flatnonzero(~whole).tolist()


def _json(value: str | None) -> bytes:
    return msgspec.json.encode(value)


@kernel
def _variable(at: int, value: float, deviation: int, between: int, between_end: int) -> int:
    at = write_float32(at, value)
    at = copy(at, between, between_end)
    if deviation < 0:
        at = write_letter(at, _MINUS)
    at = write_decimal(at, abs(deviation), 2)
    return write_letter(at, _END)


def write_diagnoses(  # noqa: PLR0912
    form: _Form,
    numbers: Ints,
    values: Floats,
    names: int,
    name_ends: Ints,
    texts: _Texts,
    out: int,
    ends: Ints,
    whole: Bools,
) -> None:
    # One loop in which each operation has one place: every further place would be compiled as well.
    at = out
    for r in range(len(numbers)):
        is_whole = True
        for n in range(len(form.operations)):
            operation, column, piece = form.operations[n], form.columns[n], form.pieces[n]
            number = numbers[r, column]
            if operation == _NAME:
                at = copy(at, names + name_ends[r], names + name_ends[r + 1])
                continue
            if operation == _TEXTS:
                for text in range(texts.row_ends[r], texts.row_ends[r + 1]):
                    if text > texts.row_ends[r]:
                        at = write_letter(at, _COMMA)
                    at = copy(at, texts.heads + texts.head_ends[text], texts.heads + texts.head_ends[text + 1])
                    at = write_whole_number(at, texts.age_ms[text])
                    end_piece = piece + texts.late[text]
                    at = copy(at, form.text + form.ends[end_piece], form.text + form.ends[end_piece + 1])
                continue
            if operation >= _SHARE:
                if operation == _VARIABLE:
                    if column >= numbers[r, VARIABLES]:
                        continue
                    number = numbers[r, TOP + column]
                    piece += number
                elif 0 <= number < _MIN_UNITS:
                    continue
                before = load_byte(at - 1)
                if before not in (_OBJECT, _LIST):
                    at = write_letter(at, _COMMA)
            elif operation == _CHOOSE:
                piece += number
            elif operation == _OPTIONAL and number == UNDEFINED:
                continue
            at = copy(at, form.text + form.ends[piece], form.text + form.ends[piece + 1])
            if _OPTIONAL <= operation <= _SHARE:
                is_whole &= number != UNDEFINED
                at = write_units(at, number)
            elif operation == _NUMBER and number == UNDEFINED:
                at = copy(at, form.text + form.ends[_NULL], form.text + form.ends[_NULL + 1])
            elif operation == _NUMBER:
                at = write_whole_number(at, number)
            elif operation == _VARIABLE:
                value, deviation = values[r, number], numbers[r, DEVIATIONS + column]
                is_whole &= is_plain(value) and deviation != UNDEFINED
                if is_whole:
                    begin, end = form.text + form.ends[_DEVIATION], form.text + form.ends[_DEVIATION + 1]
                    at = _variable(at, value, deviation, begin, end)
        ends[r], whole[r] = at - out, is_whole


_ints, _floats, _bools = (numba.types.Array(dtype, 1, "C") for dtype in (numba.int64, numba.float32, numba.boolean))
_table, _address_type = _ints.copy(ndim=2), numba.int64
_FUNCTION: Final = CompiledFunction(
    write_diagnoses,
    numba.void(
        numba.types.NamedTuple((_ints, _ints, _ints, _address_type, _ints), _Form),
        *(_table, _floats.copy(ndim=2), _address_type, _ints),
        numba.types.NamedTuple((_address_type, _ints, _ints, _bools, _ints), _Texts),
        *(_address_type, _ints, _bools),
    ),
    [Path(file) for file in (__file__, diagnosis_columns.__file__, json_numbers.__file__, memory.__file__)],
    what="the writer of diagnoses",
)
