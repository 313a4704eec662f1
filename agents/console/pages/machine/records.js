/** What has been recorded of a machine: alarms, drift and what technicians found. */

import { byWhom } from "../core/actions.js";
import { element, panel, table, time } from "../core/dom.js";
import { hasEnded } from "../core/live.js";
import { CHANGES } from "../alarms/details.js";

const MAX_ROWS = 30;

export function alarmsPanel({ alarms }) {
  const newest = alarms.history.slice(-MAX_ROWS).reverse();
  if (!newest.length)
    return panel("Alarm history", element("p", { class: "muted" }, "No alarm is recorded in what has been read."));
  const rows = newest.map((one) => [
    time(one.time_ms),
    [
      element("span", {}, `${CHANGES[one.state] ?? one.state}: ${one.title ?? one.fault}`),
      one.by || one.why ? element("div", { class: "muted quote" }, byWhom({ by: one.by, why: one.why })) : "",
    ],
  ]);
  return panel(
    "Alarm history",
    table(
      [
        ["Time", "nowrap"],
        ["What", ""],
      ],
      rows,
      "Alarm history",
    ),
  );
}

export function driftPanel({ drift }) {
  if (!drift.length) return null;
  const rows = drift
    .slice(0, MAX_ROWS)
    .map((one) => [
      one.title,
      `${one.direction} by ${one.size}`,
      [time(one.since_ms), one.ended_ms === null ? " until now" : [" until ", time(one.ended_ms)]].flat(),
    ]);
  return panel(
    "Drift",
    table(
      [
        ["What", ""],
        ["How", ""],
        ["When", ""],
      ],
      rows,
      "Drift",
    ),
  );
}

export function labelsPanel({ labels }) {
  if (!labels.length) return null;
  const rows = labels
    .slice(0, MAX_ROWS)
    .map((one) => [
      [one.title ?? one.fault, one.note ? element("div", { class: "muted quote" }, one.note) : ""],
      [time(one.start_ms), " until ", hasEnded(one.end_ms) ? time(one.end_ms) : "now"],
      one.by ?? "",
    ]);
  return panel(
    "Found by people",
    table(
      [
        ["What", ""],
        ["When", ""],
        ["By", ""],
      ],
      rows,
      "Labels",
    ),
  );
}
