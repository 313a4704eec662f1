"""Colours of faults that colour-blind people can distinguish: seven of Okabe and Ito, then with patterns over them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agents.replay.reports.page.markup import Markup, element, joined
from pipeline.config.classes import NO_EVIDENCE, RECOVERING, UNKNOWN
from pipeline.config.profile import NORMAL

COLOURS: Final = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
_PATTERNS: Final = ("", "stripes", "dots", "bars")
_FIXED: Final = {NORMAL: "calm", RECOVERING: "recovering", NO_EVIDENCE: "blank", UNKNOWN: "strange"}


class Painter:
    """Gives each fault of a report its colour, the same everywhere on the page."""

    def __init__(self, faults: Iterable[str]) -> None:
        self._places = {fault: place for place, fault in enumerate(dict.fromkeys(faults)) if fault not in _FIXED}

    def fill(self, fault: str, **box: str) -> Markup:
        """A rectangle in the colour of a fault, or of another state; the second one has its pattern."""
        name = _FIXED.get(fault)
        pattern = "stripes" if name in ("strange", "recovering") else ""
        if name is None:
            place = self._places.get(fault, 0)
            name = f"c{place % len(COLOURS)}"
            pattern = _PATTERNS[place // len(COLOURS) % len(_PATTERNS)]
        over = element("rect", fill=f"url(#{pattern})", **box) if pattern else None
        return joined([element("rect", class_=name, **box), over])

    def text_class(self, fault: str) -> str:
        """The class of a text on the colour of a fault."""
        return "on-dark" if self._places.get(fault, 0) % len(COLOURS) == 4 and fault in self._places else "on-light"

    @staticmethod
    def is_quiet(state: str) -> bool:
        """Whether a state is neither a fault nor an unknown one."""
        return state in _FIXED and state != UNKNOWN

    @staticmethod
    def patterns() -> Markup:
        """The patterns, which stand once in a page."""
        drawn = {
            "stripes": element("path", d="M0 6L6 0M-1 1L1 -1M5 7L7 5", class_="ink"),
            "dots": element("circle", cx=3, cy=3, r=1.2, class_="dot"),
            "bars": element("path", d="M3 0V6", class_="ink"),
        }
        made = [
            element("pattern", shape, id=name, width=6, height=6, patternUnits="userSpaceOnUse")
            for name, shape in drawn.items()
        ]
        return element("svg", element("defs", made), width=0, height=0, class_="hidden", aria_hidden="true")
