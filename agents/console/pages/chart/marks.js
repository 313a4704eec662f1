/** Moments on the time axis: texts and changes of alarms. */

import { svg } from "../core/dom.js";
import { dayAndClock } from "../core/format.js";

const HEIGHT = 22;

/** A lane of a chart; `marks` are {ms, kind, text, choose}. */
export function marksLane({ title, marks, note = "" }) {
  return {
    title,
    note,
    height: HEIGHT,
    draw: (axis) => [
      ...axis.grid(HEIGHT),
      svg("line", { class: "rail", x1: axis.left, x2: axis.right, y1: HEIGHT / 2, y2: HEIGHT / 2 }),
      ...marks.filter(({ ms }) => ms >= axis.fromMs && ms <= axis.untilMs).map((mark) => drawn(mark, axis)),
    ],
    at(ms) {
      const mark = marks.findLast((one) => one.ms <= ms);
      return mark
        ? `${dayAndClock(mark.ms)}: ${mark.text.length > 60 ? `${mark.text.slice(0, 59)}…` : mark.text}`
        : "–";
    },
  };
}

const SHAPES = {
  text: "M-4 -6h8v9l-4 4l-4 -4z",
  late: "M-4 -6h8v9l-4 4l-4 -4z",
  raised: "M0 -7L7 6H-7z",
  other: "M0 -5a5 5 0 110 10a5 5 0 010-10z",
};

function drawn({ ms, kind, text, choose }, axis) {
  return svg(
    "path",
    {
      class: `moment ${kind}`,
      d: SHAPES[kind] ?? SHAPES.other,
      transform: `translate(${axis.x(ms).toFixed(1)} ${HEIGHT / 2})`,
      onclick: choose,
    },
    svg("title", {}, `${dayAndClock(ms)}: ${text}`),
  );
}
