/** Answers over time as a ribbon: one colour a fault, its title written where there is room. */

import { svg } from "../core/dom.js";
import { percent } from "../core/format.js";

const HEIGHT = 22;
const PIXELS_PER_LETTER = 6.6;

/** A lane of a chart; `spans` are {fromMs, untilMs, fault, confidence, present}, in order. */
export function ribbonLane({ title, spans, colours, words, note = "" }) {
  const runs = joined(spans);
  return {
    title,
    note,
    height: HEIGHT,
    draw: (axis) => [...axis.grid(HEIGHT), ...runs.flatMap((run) => segment(run, axis, colours, words))],
    at(ms) {
      const span = spans.findLast((one) => one.fromMs <= ms && ms <= one.untilMs);
      if (!span || span.fault === null) return "–";
      return span.present ? `${words(span.fault)} ${percent(span.confidence)}` : `${words(span.fault)}, nothing new`;
    },
  };
}

function joined(spans) {
  const runs = [];
  for (const span of spans) {
    const last = runs.at(-1);
    if (last && last.fault === span.fault && last.present === span.present && span.fromMs <= last.untilMs)
      last.untilMs = span.untilMs;
    else runs.push({ ...span });
  }
  return runs.filter((run) => run.fault !== null);
}

function segment({ fromMs, untilMs, fault, present }, axis, colours, words) {
  const x = axis.x(fromMs);
  const width = axis.x(untilMs) - x;
  if (width <= 0) return [];
  const { kind, pattern } = colours.of(fault);
  const box = { x, y: 1, width: Math.max(0.7, width), height: HEIGHT - 2 };
  const parts = [
    svg("rect", { class: `answer ${kind}${present ? "" : " absent"}`, ...box }, svg("title", {}, words(fault))),
  ];
  if (pattern) parts.push(svg("rect", { fill: `url(#${pattern})`, ...box, "pointer-events": "none" }));
  const room = Math.floor((width - 10) / PIXELS_PER_LETTER);
  const text = words(fault);
  if (room >= 5) {
    const fits = text.length <= room ? text : `${text.slice(0, room - 1)}…`;
    parts.push(svg("text", { class: `on ${kind}${present ? "" : " absent"}`, x: x + 5, y: 15 }, fits));
  }
  return parts;
}
