"""Charts of answers: ROC curves and reliability, as SVG of a fixed shape that shrinks with the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agents.replay.reports.page.markup import Markup, element
from agents.replay.reports.quality import ANY_FAULT, Curve

_SIZE: Final = 260
_LEFT, _TOP, _BOTTOM = 38, 8, 34
_TICKS: Final = (0.0, 0.5, 1.0)


def roc_chart(curves: Mapping[str, Curve]) -> Markup:
    """Detection over false alarms: a thin line a class, and a thick one for any fault."""
    shapes = []
    for name, curve in curves.items():
        points = " ".join(
            f"{_x(x):.1f},{_y(y):.1f}" for x, y in zip(curve.false_alarm_rate, curve.detection_rate, strict=True)
        )
        title = element("title", f"{name}, AUC {curve.area:.4f}")
        shapes.append(element("polyline", title, points=points, class_="thick" if name == ANY_FAULT else "thin"))
    return _chart("ROC curves", "false alarm rate", "detection rate", shapes)


def reliability_chart(bins: Sequence[Mapping[str, Any]]) -> Markup:
    """Share of right answers over confidence; a point's size says how many frames it stands for."""
    most = max((one["frames"] for one in bins), default=1)
    points = " ".join(f"{_x(one['confidence']):.1f},{_y(one['correct']):.1f}" for one in bins)
    shapes = [
        element("line", x1=_x(0), y1=_y(0), x2=_x(1), y2=_y(1), class_="ideal"),
        element("polyline", points=points, class_="thin"),
    ]
    for one in bins:
        title = element("title", f"confidence {one['confidence']:.3f}: {one['correct']:.1%} of {one['frames']} right")
        radius = f"{2 + 5 * (one['frames'] / most) ** 0.5:.1f}"
        place = {"cx": f"{_x(one['confidence']):.1f}", "cy": f"{_y(one['correct']):.1f}"}
        shapes.append(element("circle", title, r=radius, class_="point", **place))
    return _chart("Reliability", "confidence", "share of right answers", shapes)


def _x(share: float) -> float:
    return _LEFT + share * (_SIZE - _LEFT - 8)


def _y(share: float) -> float:
    return _SIZE - _BOTTOM - share * (_SIZE - _TOP - _BOTTOM)


def _chart(name: str, across: str, up: str, shapes: Sequence[Markup]) -> Markup:
    frame = element("rect", x=_x(0), y=_y(1), width=_x(1) - _x(0), height=_y(0) - _y(1), class_="plot")
    ticks = []
    for share in _TICKS:
        ticks += [
            element("text", f"{share:g}", x=_x(share), y=_y(0) + 13, text_anchor="middle", class_="tick"),
            element("text", f"{share:g}", x=_x(0) - 4, y=_y(share) + 4, text_anchor="end", class_="tick"),
        ]
    middle = (_y(0) + _y(1)) / 2
    words = [
        element("text", across, x=(_x(0) + _x(1)) / 2, y=_SIZE - 6, text_anchor="middle", class_="tick"),
        element("text", up, x=10, y=middle, text_anchor="middle", class_="tick", transform=f"rotate(-90 10 {middle})"),
    ]
    return element(
        "svg", frame, ticks, words, shapes, viewBox=f"0 0 {_SIZE} {_SIZE}", class_="chart", role="img", aria_label=name
    )
