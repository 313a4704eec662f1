/** All about one alarm: what it means, what to check first, what happened, comments, and similar incidents. */

import { actionsFor, byWhom } from "../core/actions.js";
import { element, facts, headedList } from "../core/dom.js";
import { dayAndClock, exact, percent } from "../core/format.js";
import { machineAddress } from "../core/router.js";
import { priorityBadge } from "../core/symbols.js";
import { ALARM_STATES } from "./rows.js";

/** What people read for a change of an alarm. */
export const CHANGES = {
  raised: "Raised",
  cleared: "Over",
  acknowledged: "Acknowledged",
  returned: "Fault gone, not acknowledged",
  latched: "Fault gone, latched",
  realarmed: "Called again",
  escalated: "Priority raised",
  shelved: "Shelved",
  unshelved: "No longer shelved",
  suppressed: "Out of service",
  unsuppressed: "In service again",
  configured: "Settings changed",
  commented: "Comment",
};

export function details(alarm, close) {
  const machine = alarm.utility ? alarm.name : element("a", { href: machineAddress(alarm.machine) }, alarm.name);
  return [
    element(
      "header",
      { class: "title-row" },
      element("h2", {}, alarm.alarm_title),
      element("button", { type: "button", class: "close", "aria-label": "Close", onclick: close }, "✕"),
    ),
    element(
      "div",
      { class: "actions" },
      actionsFor(alarm).map(([word, act]) => element("button", { type: "button", onclick: () => act([alarm]) }, word)),
    ),
    facts([
      ["Machine", machine],
      ["Area", alarm.area_title],
      ["Priority", priorityBadge(alarm.priority, !alarm.waiting)],
      ["State", ALARM_STATES[alarm.state] ?? alarm.state],
      ["Raised", alarm.raised_ms === null ? null : exact(alarm.raised_ms)],
      ["Shelved until", alarm.until_ms === null ? null : exact(alarm.until_ms)],
      ["Over", alarm.over_ms === null ? null : exact(alarm.over_ms)],
      ["Confidence", alarm.confidence ? percent(alarm.confidence) : null],
      ["Component", alarm.component],
      ["Meaning", alarm.description],
      ["Found", alarm.found ? [alarm.found.fault_title, alarm.found.note].filter(Boolean).join(": ") : null],
    ]),
    headedList("Check first", alarm.check_first, "ol"),
    headedList(
      "Comments",
      alarm.comments.map((one) => byWhom({ ...one, why: one.text })),
    ),
    headedList("Similar incidents", alarm.similar.map(similar)),
    element("h3", {}, "What happened"),
    element("ol", { class: "plain history" }, alarm.changes.map(change)),
    element("p", { class: "id" }, alarm.id ?? alarm.key),
  ]
    .flat()
    .filter(Boolean);
}

function similar(incident) {
  const found = incident.found ? "found" : "diagnosed";
  return [
    element("a", { href: machineAddress(incident.machine) }, incident.name),
    `, ${dayAndClock(incident.start_ms)}: ${incident.fault_title ?? incident.fault} (${found}), ${percent(incident.score)} alike`,
    incident.text ? element("div", { class: "muted quote" }, incident.text) : null,
  ];
}

function change(one) {
  const why = byWhom({ by: one.by, why: one.why });
  const until = one.until_ms === null ? "" : ` until ${dayAndClock(one.until_ms)}`;
  return element(
    "li",
    {},
    element("time", { title: exact(one.time_ms) }, dayAndClock(one.time_ms)),
    element(
      "span",
      {},
      `${CHANGES[one.state] ?? one.state}${until}`,
      why ? element("div", { class: "muted quote" }, why) : null,
    ),
  );
}
