/** The head of a machine's page: its name, state, alarms with what can be done about them, and feedback. */

import { actionsFor } from "../core/actions.js";
import { element } from "../core/dom.js";
import { duration, exact, moment, percent } from "../core/format.js";
import { live } from "../core/live.js";
import { known } from "../core/session.js";
import { capital, MEANINGS, priorityBadge, STATES, stateSymbol } from "../core/symbols.js";
import { ALARM_STATES } from "../alarms/rows.js";

export function headOf(machine, tile, alarms, giveFeedback, shown) {
  const title = tile?.title ?? shown?.machine.title ?? machine;
  const area = tile?.area_title ?? shown?.machine.area;
  const names = [title === machine ? null : machine, area, tile?.type ?? shown?.machine.type].filter(Boolean).join(" · ");
  const button = known().read_only ? null : element("button", { type: "button", onclick: giveFeedback }, "Feedback …");
  return [
    element("div", { class: "title-row" }, element("a", { href: "/" }, "Plant"), element("h1", {}, title), element("span", { class: "id" }, names), element("span", { class: "spacer" }), button),
    tile ? state(tile) : null,
    ...alarms.map(alarmBar),
  ].filter(Boolean);
}

function state(tile) {
  const words = tile.state === "fault" ? (tile.fault_title ?? tile.fault) : (STATES[tile.state] ?? tile.state);
  const readMs = live.status?.read_ms;
  const since = tile.since_ms === null ? null : `${tile.since_known ? "since" : "since before"} ${moment(tile.since_ms, readMs)} (${duration(readMs - tile.since_ms)})`;
  const more = [
    tile.confidence === null || tile.state === "no_evidence" ? null : `confidence ${percent(tile.confidence)}`,
    since,
    tile.frame_end_ms === null ? null : `frame until ${moment(tile.frame_end_ms, readMs)}`,
    tile.drifting ? `${tile.drifting} drifting` : null,
  ].filter(Boolean);
  const corrected = tile.corrected && tile.corrected.fault !== tile.fault ? `With its neighbours' answers: ${tile.corrected.fault_title ?? tile.corrected.fault}, ${percent(tile.corrected.confidence)}.` : "";
  return element(
    "div",
    { class: "state", "data-state": tile.state, title: MEANINGS[tile.state] ?? null },
    element("strong", {}, stateSymbol(tile.state), words),
    element("span", { class: "muted", title: tile.since_ms === null ? null : exact(tile.since_ms) }, more.join(" · ")),
    corrected ? element("span", {}, corrected) : null,
  );
}

function alarmBar(alarm) {
  const who = [alarm.by, alarm.why].filter(Boolean).join(": ");
  return element(
    "div",
    { class: "alarm-bar", "data-priority": alarm.priority, "data-waiting": alarm.waiting ? "yes" : null },
    priorityBadge(alarm.priority, !alarm.waiting),
    element("a", { href: `/alarms?alarm=${encodeURIComponent(alarm.key)}` }, alarm.alarm_title),
    element("span", {}, capital(ALARM_STATES[alarm.state] ?? alarm.state)),
    who ? element("span", { class: "muted quote" }, who) : null,
    element("span", { class: "actions" }, actionsFor(alarm).map(([word, act]) => element("button", { type: "button", onclick: () => act([alarm]) }, word))),
  );
}
