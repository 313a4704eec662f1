"""Words of every script: what counts as the same word, and that English words are what they always were."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from models.configs.text import TextConfig
from models.encoders.tokenizer import UNKNOWN, Tokenizer, normalised
from models.encoders.words import words
from models.model_file import read_model
from pipeline.wire.messages import decode_event
from pipeline.wire.plain_text import plain_text
from pipeline.wire.recording import read_recording

ROOT = Path(__file__).parents[2]
PHRASES = ROOT / "deploy/demo/authors/shift_operator.yaml"
"""The author of the texts that the shipped model was trained on; those of others have letters beyond ASCII."""
SHIPPED = ROOT / "agents/data/tennessee_eastman.faultline"
DEMO = ROOT / "agents/data/demo.parquet"

ENGLISH = re.compile(r"[a-z0-9]+")
"""What tokens were when the shipped model was trained; its vocabulary and its n-grams are of these."""

TOO_WARM, ALL_NORMAL = "反应器冷却水回水温度偏高", "一切正常"


def shipped_texts() -> list[str]:
    texts = [decode_event(record.value or b"").text for record in read_recording(DEMO) if record.topic == "events"]
    phrases = yaml.safe_load(PHRASES.read_text(encoding="utf-8"))
    return texts + [line for block in strings(phrases) for line in block.splitlines()]


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for child in children for text in strings(child)]


def test_words_of_the_shipped_texts_are_those_that_the_model_was_trained_on() -> None:
    texts = shipped_texts()
    model = read_model(SHIPPED)
    assert model.tokenizer is not None
    limit = model.tokenizer.config.max_tokens
    events = [text for text in texts if text.isascii()]
    assert len(events) > 500
    for text in events:
        assert words(text) == ENGLISH.findall(text.lower())
        assert plain_text(text) == text or "<" in text
        if len(words(text)) <= limit:
            assert model.tokenizer.split(text) == ([w[:32] for w in ENGLISH.findall(text.lower())] or [""])
    assert all(normalised(word) == word for word in model.tokenizer.vocabulary)


@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_ascii_texts_are_runs_of_letters_and_digits(text: str) -> None:
    assert words(text) == ENGLISH.findall(text.lower())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TOO_WARM, "反应 应器 器冷 冷却 却水 水回 回水 水温 温度 度偏 偏高"),
        (ALL_NORMAL, "一切 切正 正常"),
        ("3号泵P-101泄漏，水", "3 号泵 p 101 泄漏 水"),
        ("ポンプから漏れ", "ポン ンプ プか から ら漏 漏れ"),
        ("ﾎﾟﾝﾌﾟ", "ポン ンプ"),
        ("펌프 P-101에서 누수", "펌프 p 101 에서 누수"),
        ("ปั๊มรั่ว", "ปั๊ม มรั่ รั่ว"),
        ("Kühlwasser-Rücklauf STRASSE Straße Öl", "kuhlwasser rucklauf strasse strasse ol"),
        ("Réacteur n° 3 à 80 °C, débit élevé", "reacteur n 3 a 80 c debit eleve"),
        ("ISI İSI ısı Isı sızıntısı", "isi isi isi isi sizintisi"),
        ("Насос ТЕЧЁТ, течет йод", "насос течет течет йод"),
        ("Αντλία ΑΝΤΛΙΑ διαρροής", "αντλια αντλια διαρροησ"),
        ("المضخة الـمِـضَخَّة أعطال ٣٫٥ بار", "المضخة المضخة اعطال 3 5 بار"),
        ("پمپ نشتی دارد ۱۲", "پمپ نشتي دارد 12"),
        ("שָׁלוֹם", "שלום"),
        ("पंप से रिसाव हो रहा है", "पंप से रिसाव हो रहा है"),
        ("máy bơm rò rỉ", "may bom ro ri"),
        ("Łożysko głośne, smøring, œuvre", "lozysko glosne smoring oeuvre"),
        ("５０ ｂａｒ Ｐ１０１", "50 bar p101"),
        ("𝐏𝐮𝐦𝐩 ① m² 5 µm ½", "pump 1 m2 5 um 1 2"),
        ("\ufeffpump\u200bleaks Kühl\u00adwasser \u202eabc\u202c", "pump leaks kuhlwasser abc"),
        ("🔥🔥 pump 👨\u200d👩\u200d👧 1\ufe0f\u20e3 it’s", "pump 1 it s"),
        ("z\u0338a\u0337l\u0334g\u0335o\u0336 café cafe\u0301", "zalgo cafe cafe"),
        ("\ud800 x\x00é", "x e"),
        ("…—“”。、！？", ""),
    ],
)
def test_words_of_other_scripts(text: str, expected: str) -> None:
    assert " ".join(words(text)) == expected


@given(st.text(max_size=60))
def test_words_do_not_depend_on_the_form_in_which_a_text_is_encoded(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert words(unicodedata.normalize(form, text)) == words(text)


@given(st.text())
def test_words_are_neither_empty_nor_have_blanks(text: str) -> None:
    assert all(word and not re.search(r"\s", word) for word in words(text))


def test_two_chinese_texts_share_no_token() -> None:
    tokenizer = Tokenizer.fit([TOO_WARM, ALL_NORMAL], TextConfig())
    warm, normal = tokenizer([TOO_WARM, ALL_NORMAL]).words.tolist()
    assert UNKNOWN not in warm + normal
    assert not set(warm) & (set(normal) - {0})
    assert set(tokenizer.buckets("水温")) & set(tokenizer.buckets("水位")), "one character is the same"


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    tokenizer = Tokenizer([], TextConfig(max_tokens=5))
    assert tokenizer.split("a b c d e") == ["a", "b", "c", "d", "e"]
    assert tokenizer.split("a b c d e f g h") == ["a", "b", "c", "g", "h"]
    assert Tokenizer([], TextConfig(max_tokens=1)).split("a b c") == ["a"]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("the Pump stands", True),
        ("pumps", False),
        ("", False),
        ("?!", False),
        (TOO_WARM, False),
        ("泵 C-3 80 °C", False),  # a letter and a number that English texts have too say nothing
        ("3", True),
        ("C 3", True),
        ("4", False),
    ],
)
def test_a_text_is_known_by_its_words(text: str, known: bool) -> None:
    assert Tokenizer.fit(["pump C 3 leaks"], TextConfig()).knows(text) is known
