"""What is markup and what is text, seen from outside: event bytes in, the text that a diagnosis shows out."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.engine.engine import Engine
from pipeline.wire.messages import MAX_EVENT_BYTES
from pipeline.wire.plain_text import MAX_TEXT, plain_text
from pipeline.wire.records import Record
from tests.support.builders import SumRunner, diagnoses, numbered, profile, reading

T0 = 1_763_600_000_000


def shown(text: str) -> str:
    """What a diagnosis shows of an event with this text."""
    body = json.dumps({"machine": "p1", "time": T0 + 1_000, "text": text}).encode()
    records = [
        reading("p1", T0, [1.0, 2.0]),
        Record("events", 0, 0, T0, b"p1", body),
        reading("p1", T0 + 15_000, [1, 2]),
    ]
    engine = Engine(profile(), {"pump": SumRunner()})
    (diagnosis,) = diagnoses(engine.process(numbered(records)))
    ((evidence),) = diagnosis.evidence.texts
    return evidence.text


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ('<div style="font-family:Calibri"><p>Pump&nbsp;leaks at flange 3</p></div>', "Pump leaks at flange 3"),
        ("<p>Pump stops</p><p>at night</p>Line 2<br>Line 3", "Pump stops at night Line 2 Line 3"),
        ("<table><tr><td>3</td><td>bar</td></tr></table>", "3 bar"),
        ("<b>Leak</b>s of H<sub>2</sub>O <i>x</i>", "Leaks of H2O x"),
        ("<html><head><style>p > a {color:red}</style></head><body onload='a>b'>Leak</body></html>", "Leak"),
        ("<script type=x>if (a<b && c>d) {}</SCRIPT >Leak<!-- not > this -->s", "Leaks"),
        ("<P CLASS=MsoNormal><o:p>&nbsp;</o:p></P>Leak<SPAN LANG=EN-GB> again</SPAN>", "Leak again"),
        ("<!DOCTYPE html><?xml version='1.0'?><note><body>Leak</body></note>", "Leak"),
        ("<description><![CDATA[<p>Pump &amp; valve</p>]]></description>", "Pump & valve"),
        ("<![if !supportLists]>1.<![endif]> Leak", "1. Leak"),
        ("&lt;p&gt;Pump leaks&lt;/p&gt;", "Pump leaks"),
        ("Druck &lt; 3 bar &amp; K&uuml;hlung &#8804; 5 &#xb0;C", "Druck < 3 bar & Kühlung ≤ 5 °C"),
        ("<div><p>a text that was cut off in the mid", "a text that was cut off in the mid"),
        ("a text that was cut off <spa", "a text that was cut off <spa"),
        ("<p>  </p>&nbsp;", ""),
        ("", ""),
        ("\ufeffPump\x00leaks\x1b[31m \u202eagain\u202c", "Pump leaks [31m again"),
        ("half an emoji \ud83d", "half an emoji ?"),
        ("می\u200cخواهم 👨\u200d👩", "می\u200cخواهم 👨\u200d👩"),
    ],
)
def test_markup_and_control_characters_are_removed(sent: str, text: str) -> None:
    assert shown(sent) == text


@pytest.mark.parametrize(
    "text",
    [
        "pressure < 3 bar and flow > 5",
        "pressure<3 bar and flow>5",
        "level<low and temperature>high",
        "a<b and c>d",
        "if p<<3 then q>>5, r<=2 or s>=1, x <> y, x <-> y",
        "valve <FV-101> and <P-101 discharge> stuck, <low> level",
        "Feed <A> low, <B> high, <main> open",
        "mail <john@example.com>, see <https://example.com/?a=1&b=2>",
        "R&D at A&B; Q&notes, 5 & 6 &",
        "pressure <?> bar, <!> alarm, </3>, <",
        "valve [/opened] **bold** {\\rtf} C:\\logs",
        "  two lines\n and a tab\t",
        "<script> is not closed, pump leaks",
        "<!-- is not closed, pump leaks",
        "<![CDATA[ is not closed, pump leaks",
        "反应器<温度>偏高",
    ],
)
def test_text_that_is_no_markup_stays_as_it_is(text: str) -> None:
    assert shown(text) == text


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = shown("Pump leaks. " + "Nothing else to say. " * 1_000 + "Now dry again.")
    assert len(text) == MAX_TEXT
    assert text.startswith("Pump leaks. ") and text.endswith(" Now dry again.") and " … " in text
    assert shown("x" * MAX_TEXT) == "x" * MAX_TEXT
    head = "<style>" + "p {margin: 0}\n" * 3_000 + "</style>"
    assert shown(head + "<p>Pump leaks</p>") == "Pump leaks"


@given(st.text(st.sampled_from("<>&;/!?-[]CDATApb ='\"#x3\n")))
@example("<A 3/>")
def test_what_is_plain_text_already_stays_so(text: str) -> None:
    plain = plain_text(text)
    assert plain_text(plain) == plain
    assert len(plain) <= len(text)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf"], exclude_characters="<&"), max_size=MAX_TEXT))
def test_without_a_sign_of_markup_nothing_is_changed(text: str) -> None:
    assert plain_text(text) == text


@pytest.mark.parametrize(
    "piece",
    ["<", "<!", "<?", "</", "&", "<a ", "<a b='", "<a>", "<zz>", "<a></b>", "<!--", "<![CDATA[", "<script>", "&lt;"],
)
def test_a_text_of_the_largest_size_is_read_whatever_it_repeats(piece: str) -> None:
    text = piece * ((MAX_EVENT_BYTES - 200) // len(piece)) + ">"
    assert len(shown(text)) <= MAX_TEXT
