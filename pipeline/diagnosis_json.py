"""Writes the diagnoses of a round as JSON into one buffer, in compiled code: names are copied, numbers are written.

The bytes are those that `messages.encode` gives of the same diagnosis (docs/messages.md has the form).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numba
import numpy as np

from pipeline import answers, json_numbers
from pipeline.answers import (
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
    first_probability,
    modality_column,
)
from pipeline.compiled import CompiledFunction, Notify, kernel
from pipeline.frames import Bools, Floats, Ints
from pipeline.json_numbers import (
    Bytes,
    copy,
    is_plain,
    write_decimal,
    write_float32,
    write_letter,
    write_units,
    write_whole_number,
)
from pipeline.messages import LEAST_PROBABILITY, ModelRef, encode

# Operations of a form. Most copy a piece of text and go on with what the column of the row says.
_COPY: Final = 0  # nothing
_CHOOSE: Final = 1  # the piece that is copied is so far behind the given one
_NUMBER: Final = 2  # a whole number; UNDEFINED as null
_UNITS: Final = 3  # a number with five decimals
_SHARE: Final = 4  # the same, after a comma except for the first; neither text nor number if it is too small
_VARIABLE: Final = (
    5  # value and deviation, after a comma, of the variable with this place among the notable ones, if any
)
_NAME: Final = 6  # the machine's name, and no text
_TEXTS: Final = 7  # the texts that are remembered; the piece is the end of one in time, behind it that of a late one

_LEAST_UNITS: Final = round(LEAST_PROBABILITY * UNIT)
_LONGEST_NUMBER: Final = 24
_MINUS, _COMMA, _OBJECT, _LIST, _END = b"-,{[}"
_DEVIATION: Final = np.frombuffer(b',"deviation":', np.uint8)
_NULL: Final = np.frombuffer(b"null", np.uint8)


class _Form(NamedTuple):
    """What to write for each row, one operation after the other, and the pieces of text that are copied."""

    operations: Ints
    columns: Ints
    pieces: Ints
    text: Bytes
    ends: Ints
    """Where each piece ends, behind a 0."""


class _Texts(NamedTuple):
    """RoundTexts as arrays; ends begin with a 0."""

    heads: Bytes
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

    def as_arrays(self) -> _Texts:
        """For compiled code."""
        return _Texts(
            _array(self.heads),
            _ends(self.heads),
            np.array(self.age_ms, np.int64),
            np.array(self.late, np.bool_),
            np.concatenate([[0], np.cumsum(self.counts)]),
        )


class _FormBuilder:
    """Collects operations and pieces."""

    def __init__(self) -> None:
        self._operations: list[tuple[int, int, int]] = []
        self._pieces: list[bytes] = []

    def add(self, operation: int, text: bytes = b"", column: int = 0) -> None:
        """An operation that copies one text."""
        self.choose(operation, column, [text])

    def choose(self, operation: int, column: int, texts: Iterable[bytes], first: int = 0) -> None:
        """An operation that copies one of some texts; that at `first` is for 0."""
        self._operations.append((operation, column, len(self._pieces) + first))
        self._pieces += texts

    def form(self) -> _Form:
        operations, columns, pieces = np.array(self._operations).T.copy()
        return _Form(operations, columns, pieces, _array(self._pieces), _ends(self._pieces))


def _diagnosis_form(
    model: ModelRef,
    classes: Sequence[str],
    modalities: Sequence[str],
    variables: Sequence[str],
    resets: Sequence[str | None],
    no_evidence: str,
    *,
    attention: bool,
) -> _Form:
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
    if attention:
        width = len(modalities)
        for place in range(width * width):
            separator = b"," if place % width else b"],[" if place else b',"attention":[['
            form.add(_UNITS, separator, first + len(classes) + place)
        form.add(_COPY, b"]]")
    form.add(_COPY, b"}")
    return form.form()


class RoundWriter:
    """Writes the diagnoses of one model."""

    def __init__(
        self,
        model: ModelRef,
        classes: Sequence[str],
        modalities: Sequence[str],
        variables: Sequence[str],
        resets: Sequence[str | None],
        no_evidence: str,
        notify: Notify,
    ) -> None:
        """`resets` are the reasons for a reset by their numbers; `no_evidence` is the fault where there is none."""
        self._notify = notify
        names = model, classes, modalities, variables, resets, no_evidence
        self._plain, self._attentive = (_diagnosis_form(*names, attention=attention) for attention in (False, True))
        self._plain_columns = first_probability(len(modalities)) + len(classes)
        self._buffer: Bytes = np.empty(0, np.uint8)

    def load(self) -> Any:
        """The compiled function, at once if it was loaded before."""
        return _FUNCTION.load(self._notify)

    def write(
        self, numbers: Ints, values: Floats, names: Sequence[bytes], texts: RoundTexts | None
    ) -> list[bytes | None]:
        """One diagnosis for each row of `answers.RoundAnswers`; None for one that has a number of another form.

        `values` are the frames', `names` the machines' as they are written between quotes.
        """
        rows, columns = numbers.shape
        form = self._plain if columns == self._plain_columns else self._attentive
        remembered = (texts or RoundTexts((), (), (), np.zeros(rows, np.int64))).as_arrays()
        name_ends = _ends(names)
        bound = 2 * int(name_ends[-1]) + len(remembered.heads) + (rows + len(remembered.age_ms)) * len(form.text)
        bound += _LONGEST_NUMBER * (rows * (columns + 3) + len(remembered.age_ms))
        if bound > len(self._buffer):
            self._buffer = np.empty(bound + bound // 2, np.uint8)
        ends, whole = np.empty(rows, np.int64), np.empty(rows, np.bool_)
        values = np.ascontiguousarray(values, np.float32)
        self.load()(form, numbers, values, _array(names), name_ends, remembered, self._buffer, ends, whole)
        places = ends.tolist()
        text = self._buffer[: places[-1]].tobytes()
        written: list[bytes | None] = [text[a:b] for a, b in zip([0, *places], places, strict=False)]
        if not whole.all():
            for row in np.flatnonzero(~whole).tolist():
                written[row] = None
        return written


def _json(value: str | None) -> bytes:
    return msgspec.json.encode(value)


def _array(texts: Iterable[bytes]) -> Bytes:
    return np.frombuffer(b"".join(texts) or b" ", np.uint8)


def _ends(texts: Sequence[bytes]) -> Ints:
    ends = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=ends[1:])
    return ends


@kernel
def _variable(out: Bytes, at: int, value: float, deviation: int) -> int:
    at = write_float32(out, at, value)
    at = copy(out, at, _DEVIATION, 0, len(_DEVIATION))
    if deviation < 0:
        at = write_letter(out, at, _MINUS)
    at = write_decimal(out, at, abs(deviation), 2)
    return write_letter(out, at, _END)


@kernel
def _texts(out: Bytes, at: int, form: _Form, end_piece: int, texts: _Texts, r: int) -> int:
    begin = texts.row_ends[r]
    for text in range(begin, texts.row_ends[r + 1]):
        if text > begin:
            at = write_letter(out, at, _COMMA)
        at = copy(out, at, texts.heads, texts.head_ends[text], texts.head_ends[text + 1])
        at = write_whole_number(out, at, texts.age_ms[text])
        piece = end_piece + texts.late[text]
        at = copy(out, at, form.text, form.ends[piece], form.ends[piece + 1])
    return at


def write_diagnoses(  # noqa: PLR0912
    form: _Form,
    numbers: Ints,
    values: Floats,
    names: Bytes,
    name_ends: Ints,
    texts: _Texts,
    out: Bytes,
    ends: Ints,
    whole: Bools,
) -> None:
    # One loop, in which each kind of thing is done in one place and written out: a call that is not dissolved costs as
    # much as what it does, and every place where one is dissolved costs time to compile.
    at = 0
    for r in range(len(numbers)):
        is_whole = True
        for n in range(len(form.operations)):
            operation, column, piece = form.operations[n], form.columns[n], form.pieces[n]
            number = numbers[r, column]
            if operation == _NAME:
                at = copy(out, at, names, name_ends[r], name_ends[r + 1])
                continue
            if operation == _TEXTS:
                if texts.row_ends[r] < texts.row_ends[r + 1]:
                    at = _texts(out, at, form, piece, texts, r)
                continue
            if operation >= _SHARE:
                if operation == _VARIABLE:
                    if column >= numbers[r, VARIABLES]:
                        continue
                    number = numbers[r, TOP + column]
                    piece += number
                elif 0 <= number < _LEAST_UNITS:
                    continue
                before = out[np.uint64(at - 1)]
                if before not in (_OBJECT, _LIST):
                    at = write_letter(out, at, _COMMA)
            elif operation == _CHOOSE:
                piece += number
            at = copy(out, at, form.text, form.ends[piece], form.ends[piece + 1])
            if _UNITS <= operation <= _SHARE:
                is_whole &= number != UNDEFINED
                at = write_units(out, at, number)
            elif operation == _NUMBER:
                at = copy(out, at, _NULL, 0, len(_NULL)) if number == UNDEFINED else write_whole_number(out, at, number)
            elif operation == _VARIABLE:
                value, deviation = values[r, number], numbers[r, DEVIATIONS + column]
                is_whole &= is_plain(value) and deviation != UNDEFINED
                if is_whole:
                    at = _variable(out, at, value, deviation)
        ends[r], whole[r] = at, is_whole


_text, _bytes, _ints, _floats, _bools = (
    numba.types.Array(kind, 1, "C", readonly=readonly)
    for kind, readonly in (
        (numba.uint8, True),
        (numba.uint8, False),
        (numba.int64, False),
        (numba.float32, False),
        (numba.boolean, False),
    )
)
_table = _ints.copy(ndim=2)
_FUNCTION: Final = CompiledFunction(
    write_diagnoses,
    numba.void(
        numba.types.NamedTuple((_ints, _ints, _ints, _text, _ints), _Form),
        *(_table, _floats.copy(ndim=2), _text, _ints),
        numba.types.NamedTuple((_text, _ints, _ints, _bools, _ints), _Texts),
        *(_bytes, _ints, _bools),
    ),
    [Path(__file__), Path(answers.__file__), Path(json_numbers.__file__)],
)
