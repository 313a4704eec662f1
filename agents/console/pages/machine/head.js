/** The head of a machine's page: its name, state, alarms with what can be done about them, and feedback. */

import { actionsFor, byWhom } from "../core/actions.js";
import { element, fillIfChanged, setText } from "../core/dom.js";
import { duration, exact, moment, percent } from "../core/format.js";
import { live } from "../core/live.js";
import { known } from "../core/session.js";
import { capital, MEANINGS, priorityBadge, STATES, stateSymbol } from "../core/symbols.js";
import { ALARM_STATES } from "../alarms/rows.js";

/** The head; `draw` brings it up to date. */
export class Head {
  #machine;
  #names = element("span", { class: "id" });
  #title;
  #state = element("div", {});
  #alarms = element("div", { class: "alarm-bars" });

  constructor(machine, giveFeedback) {
    this.#machine = machine;
    this.#title = element("h1", {}, machine);
    const button = known().read_only
      ? null
      : element("button", { type: "button", onclick: giveFeedback }, "Feedback …");
    const row = element(
      "div",
      { class: "title-row" },
      element("a", { href: "/" }, "Plant"),
      this.#title,
      this.#names,
      element("span", { class: "spacer" }),
      button,
    );
    this.root = element("div", { class: "machine-head" }, row, this.#state, this.#alarms);
  }

  /** Shows a tile, the machine's alarms that are not over, and names from its document where there is no tile. */
  draw(tile, alarms, shown) {
    const title = tile?.title ?? shown?.machine.title ?? this.#machine;
    setText(this.#title, title);
    const names = [
      title === this.#machine ? null : this.#machine,
      tile?.area_title ?? shown?.machine.area,
      tile?.type ?? shown?.machine.type,
    ];
    setText(this.#names, names.filter(Boolean).join(" · "));
    fillIfChanged(this.#state, [tile, live.status?.read_ms], () => (tile ? state(tile) : []));
    fillIfChanged(this.#alarms, alarms, () => alarms.map(alarmBar));
  }
}

function state(tile) {
  const words = tile.state === "fault" ? (tile.fault_title ?? tile.fault) : (STATES[tile.state] ?? tile.state);
  const readMs = live.status?.read_ms;
  const since =
    tile.since_ms === null
      ? null
      : `${tile.since_known ? "since" : "since before"} ${moment(tile.since_ms, readMs)} (${duration(readMs - tile.since_ms)})`;
  const more = [
    tile.confidence === null || tile.state === "no_evidence" ? null : `confidence ${percent(tile.confidence)}`,
    since,
    tile.frame_end_ms === null ? null : `frame until ${moment(tile.frame_end_ms, readMs)}`,
    tile.drifting ? `${tile.drifting} drifting` : null,
  ].filter(Boolean);
  const corrected =
    tile.corrected && tile.corrected.fault !== tile.fault
      ? `With its neighbours' answers: ${tile.corrected.fault_title ?? tile.corrected.fault}, ${percent(tile.corrected.confidence)}.`
      : "";
  return element(
    "div",
    { class: "state", "data-state": tile.state, title: MEANINGS[tile.state] ?? null },
    element("strong", {}, stateSymbol(tile.state), words),
    element("span", { class: "muted", title: tile.since_ms === null ? null : exact(tile.since_ms) }, more.join(" · ")),
    corrected ? element("span", {}, corrected) : null,
  );
}

function alarmBar(alarm) {
  const who = byWhom({ by: alarm.by, why: alarm.why });
  return element(
    "div",
    { class: "alarm-bar", "data-priority": alarm.priority, "data-waiting": alarm.waiting ? "yes" : null },
    priorityBadge(alarm.priority, !alarm.waiting),
    element("a", { href: `/alarms?alarm=${encodeURIComponent(alarm.key)}` }, alarm.alarm_title),
    element("span", {}, capital(ALARM_STATES[alarm.state] ?? alarm.state)),
    who ? element("span", { class: "muted quote" }, who) : null,
    element(
      "span",
      { class: "actions" },
      actionsFor(alarm).map(([word, act]) => element("button", { type: "button", onclick: () => act([alarm]) }, word)),
    ),
  );
}
