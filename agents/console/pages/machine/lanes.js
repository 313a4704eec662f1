/** The lanes of a machine's chart: answers, weights, texts, alarms, and the variables that matter most. */

import { element, svg } from "../core/dom.js";
import { percent, value } from "../core/format.js";
import { FaultColours } from "../chart/colours.js";
import { marksLane } from "../chart/marks.js";
import { ribbonLane } from "../chart/ribbon.js";
import { trendLane } from "../chart/trend.js";
import { weightsLane } from "../chart/weights.js";
import { CHANGES } from "../alarms/details.js";

/** What people read for a class of answers. */
export function wordsOf(document) {
  const fixed = { normal: "Normal", recovering: "Recovering", unknown: "Unknown fault", no_evidence: "No evidence" };
  return (fault) => document.faults[fault]?.title ?? fixed[fault] ?? fault;
}

export function lanesOf(document, chooseText) {
  const { frames } = document;
  const words = wordsOf(document);
  const colours = coloursOf(document);
  const ribbon = (title, faults, confidences, present) =>
    ribbonLane({ title, spans: spansOf(document, faults, confidences, present), colours, words });
  const modalities = frames.modalities.map((one) => ({ ...one, title: one.title ?? titleOf(one.name) }));
  const lanes = [
    ribbon("Diagnosis", frames.fault, frames.confidence, null),
    trendLane({
      title: "Confidence",
      points: rows(document, frames.confidence),
      range: [0, 1],
      height: 40,
      shown: percent,
    }),
    ...modalities.map((one) => ribbon(`${one.title} alone`, one.fault, one.confidence, one.present)),
  ];
  if (modalities.length > 1) {
    const layers = modalities.map((one) => ({ title: one.title, weights: one.weight }));
    lanes.push(weightsLane({ title: "Weights of the fusion", ends: frames.end_ms, layers }));
  }
  if (frames.novelty.some((one) => one !== null)) {
    const highest = Math.max(1.5, ...frames.novelty.filter((one) => one !== null));
    lanes.push(
      trendLane({
        title: "Novelty",
        note: "alarm limit 1",
        points: rows(document, frames.novelty),
        band: { low: -1, high: 1 },
        range: [0, highest],
        height: 50,
      }),
    );
  }
  const marks = document.texts.map((text) => ({
    ms: text.time_ms,
    kind: text.late || text.refused ? "late" : "text",
    text: text.text,
    choose: () => chooseText(text),
  }));
  lanes.push(marksLane({ title: "Texts", note: marks.length ? "" : "none", marks }));
  const changes = document.alarms.history.map((one) => ({
    ms: one.time_ms,
    kind: one.state === "raised" ? "raised" : "other",
    text: [`${CHANGES[one.state] ?? one.state}: ${one.title ?? one.fault}`, one.by, one.why].filter(Boolean).join(", "),
    choose: null,
  }));
  lanes.push(marksLane({ title: "Alarms", note: changes.length ? "" : "none", marks: changes }));
  return [...lanes, ...document.trends.map(trend)];
}

function trend(one) {
  const side = one.deviation < 0 ? "below" : "above";
  const newest = one.points.findLast((point) => point[1] !== null);
  const parts = [
    newest ? [value(newest[1]), one.unit].filter(Boolean).join(" ") : "",
    one.deviation === null ? "" : `${Math.abs(one.deviation).toFixed(1)} σ ${side} normal`,
    one.frozen ? "frozen: has not changed for too long" : "",
  ];
  return trendLane({
    title: one.title,
    unit: one.unit,
    points: one.points,
    steps: one.steps,
    note: parts.filter(Boolean).join(", "),
    band: one.normal ? { low: one.normal.low, high: one.normal.high } : null,
  });
}

const titleOf = (name) => ({ sensors: "Sensors", text: "Texts" })[name] ?? name;

/** The values of frames as points of a line, with a hole where frames are missing. */
function rows({ frames, frame_period_ms: periodMs }, values) {
  const points = [];
  let before = null;
  for (const [row, end] of frames.end_ms.entries()) {
    if (before !== null && end - before > 1.5 * periodMs * frames.every) points.push([before + 1, null]);
    points.push([end, values[row]]);
    before = end;
  }
  return points;
}

function spansOf({ frames, frame_period_ms: periodMs }, faults, confidences, present) {
  const longest = 1.5 * periodMs * frames.every;
  return frames.end_ms.map((untilMs, row) => {
    const before = frames.end_ms[row - 1];
    const fromMs = before !== undefined && untilMs - before <= longest ? before : untilMs - periodMs;
    return {
      fromMs,
      untilMs,
      fault: faults[row],
      confidence: confidences[row],
      present: present === null || present[row] === true,
    };
  });
}

const namedIn = ({ frames }) =>
  [...frames.fault, ...frames.modalities.flatMap((one) => one.fault)].filter((fault) => fault !== null);

const coloursOf = (document) =>
  new FaultColours(Object.keys(document.faults).length < 40 ? orderedFaults(document) : namedIn(document));

/** The faults that the diagnosis names come first, so that they have the plain colours. */
function orderedFaults(document) {
  const counts = new Map();
  for (const fault of document.frames.fault) counts.set(fault, (counts.get(fault) ?? 0) + 1);
  return [
    ...new Set([...[...counts].sort((one, other) => other[1] - one[1]).map(([fault]) => fault), ...namedIn(document)]),
  ];
}

/** What the colours mean, for the faults that occur; the normal band too. */
export function legend(document) {
  const colours = coloursOf(document);
  const words = wordsOf(document);
  const entries = [...new Set(namedIn(document))].map((fault) => {
    const { kind, pattern } = colours.of(fault);
    const box = { width: 18, height: 12 };
    return element(
      "span",
      {},
      svg(
        "svg",
        { ...box, "aria-hidden": "true" },
        svg("rect", { class: `answer key ${kind}`, ...box }),
        pattern ? svg("rect", { fill: `url(#${pattern})`, ...box }) : null,
      ),
      words(fault),
    );
  });
  const band = element(
    "span",
    {},
    svg("svg", { width: 18, height: 12, "aria-hidden": "true" }, svg("rect", { class: "band", width: 18, height: 12 })),
    `normal range (± ${document.normal.sigma} σ)`,
  );
  return document.trends.some((one) => one.normal) ? [...entries, band] : entries;
}
