/** Symbols of priorities and states: each has a shape, a letter or number and a word, so that no colour is needed. */

import { element, svg } from "./dom.js";

/** Priorities, the most urgent first. */
export const PRIORITIES = ["critical", "high", "medium", "low"];

/** What people read for a state of a machine. */
export const STATES = {
  fault: "Fault",
  unknown: "Unknown fault",
  recovering: "Recovering",
  normal: "Normal",
  no_evidence: "No evidence",
  silent: "Silent",
  stale: "No data lately",
  offline: "Offline",
  blind: "Blind",
  unheard: "No diagnosis yet",
};

/** What a state means, for its tooltip and the legend. */
export const MEANINGS = {
  fault: "The diagnosis names a fault.",
  unknown: "Something is wrong, but it is no fault that the model has learnt.",
  recovering: "The fault has gone, but the machine is not yet in its normal state.",
  normal: "The diagnosis says that all is normal.",
  no_evidence: "There are neither readings nor texts that say anything.",
  silent: "The last frame had no readings; the diagnosis rests on older ones.",
  stale: "Nothing has come for some time, so the last diagnosis is old.",
  offline: "No data have come for so long that the machine counts as offline.",
  blind: "Readings come, but none says anything of the present.",
  unheard: "The machine is declared, but there has never been a diagnosis.",
};

/** States in which nothing is known of the machine now. */
export const WITHOUT_DATA = new Set(["no_evidence", "silent", "stale", "offline", "blind", "unheard"]);

const SHAPES = {
  critical: "M6 1h8l5 5v8l-5 5H6l-5-5V6z",
  high: "M10 1l9.5 17.5H.5z",
  medium: "M10 .5L19.5 10 10 19.5.5 10z",
  low: "M10 1a9 9 0 110 18 9 9 0 010-18z",
  none: "M2 2h16v16H2z",
};
const HEIGHTS = { critical: 14.2, high: 16, medium: 14, low: 14.2, none: 14.2 };

/** The shape of a priority with its rank in it; outlined once it is acknowledged. */
export function prioritySymbol(priority, acknowledged = false) {
  const rank = PRIORITIES.indexOf(priority) + 1;
  const name = rank ? priority : "none";
  return svg(
    "svg",
    { class: `symbol ${name}${acknowledged ? " acknowledged" : ""}`, viewBox: "0 0 20 20", "aria-hidden": "true" },
    svg("path", { d: SHAPES[name] }),
    svg("text", { x: 10, y: HEIGHTS[name], "text-anchor": "middle" }, rank ? String(rank) : "!"),
  );
}

/** The same with its word beside it. */
export function priorityBadge(priority, acknowledged = false) {
  return element(
    "span",
    { class: "badge" },
    prioritySymbol(priority, acknowledged),
    capital(priority ?? "no priority"),
  );
}

const MARKS = {
  unknown: "M6.5 7.2C6.5 5 8 3.8 10 3.8s3.5 1.2 3.5 3.2c0 2.6-3.4 2.8-3.4 5.4M10 15v1.6",
  recovering: "M4 12a6.3 6.3 0 106-8M10 4L6.5 6.6 10 9",
  no_evidence: "M3 10h14",
  silent: "M3 10h1.5M9.3 10h1.5M15.6 10h1.5",
  stale: "M10 3v7l4.5 3M10 1.5a8.5 8.5 0 110 17 8.5 8.5 0 010-17",
  offline: "M4 4l12 12M16 4L4 16",
  blind: "M2 10c3-5 13-5 16 0-3 5-13 5-16 0M4 17L16 3",
  unheard: "M10 9v2M5 9v2M15 9v2",
};

/** The mark of a state that is neither normal nor an alarm; null for those. */
export function stateSymbol(state) {
  const mark = MARKS[state];
  return mark
    ? svg("svg", { class: "symbol state-mark", viewBox: "0 0 20 20", "aria-hidden": "true" }, svg("path", { d: mark }))
    : null;
}

/** A word with a capital first letter. */
export const capital = (word) => word.charAt(0).toUpperCase() + word.slice(1);
