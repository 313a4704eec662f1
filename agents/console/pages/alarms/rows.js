/** One alarm as a row of the list. */

import { byWhom } from "../core/actions.js";
import { element } from "../core/dom.js";
import { duration, exact, moment } from "../core/format.js";
import { live } from "../core/live.js";
import { machineAddress } from "../core/router.js";
import { known } from "../core/session.js";
import { priorityBadge } from "../core/symbols.js";

export const HEADINGS = ["", "Priority", "Alarm", "Machine", "State", "Since"];

/** What people read for a state of an alarm. */
export const ALARM_STATES = {
  unacknowledged: "Not acknowledged",
  "returned-unacknowledged": "Gone, not acknowledged",
  latched: "Gone, latched",
  acknowledged: "Acknowledged",
  shelved: "Shelved",
  "out-of-service": "Out of service",
  "suppressed-by-design": "Suppressed by design",
  normal: "Over",
};

export function alarmRow(alarm, { chosen, open, onChoose, onOpen }) {
  const readMs = live.status?.read_ms ?? alarm.since_ms;
  const box =
    known().read_only
      ? null
      : element("input", {
          type: "checkbox",
          checked: chosen,
          "aria-label": `Choose ${alarm.alarm_title}, ${alarm.title}`,
          onchange: (event) => onChoose(alarm.key, event.target.checked),
        });
  const opener = element(
    "button",
    { type: "button", class: "opener", "aria-expanded": String(open), onclick: () => onOpen(open ? null : alarm.key) },
    alarm.alarm_title,
  );
  const notes = [
    alarm.escalated ? "escalated" : null,
    alarm.chattering ? "chattering" : null,
    alarm.times_raised > 1 ? `${alarm.times_raised} times within an hour` : null,
    alarm.comments.length ? `${alarm.comments.length} comment${alarm.comments.length > 1 ? "s" : ""}` : null,
  ].filter(Boolean);
  const cells = [
    ["", box],
    [
      "",
      alarm.state === "normal"
        ? element("span", { class: "muted" }, alarm.priority)
        : priorityBadge(alarm.priority, !alarm.waiting),
    ],
    ["", [opener, element("div", { class: "muted" }, notes.join(" · "))]],
    ["Machine", machineCell(alarm)],
    ["State", stateCell(alarm)],
    [
      "Since",
      [
        element("time", { class: "nowrap", title: exact(alarm.since_ms) }, moment(alarm.since_ms, readMs)),
        element("div", { class: "muted nowrap" }, duration(readMs - alarm.since_ms)),
      ],
    ],
  ];
  return element(
    "tr",
    {
      "data-key": alarm.key,
      "data-waiting": alarm.waiting ? "yes" : null,
      "data-priority": alarm.state === "normal" ? null : alarm.priority,
      class: open ? "open" : null,
    },
    cells.map(([heading, content]) => element("td", { "data-heading": heading || null }, content)),
  );
}

function machineCell(alarm) {
  const name = alarm.utility
    ? element("span", {}, alarm.title)
    : element("a", { href: machineAddress(alarm.machine) }, alarm.title);
  const more = [alarm.title === alarm.machine ? null : alarm.machine, alarm.area_title].filter(Boolean).join(", ");
  return [name, element("div", { class: "id" }, more)];
}

function stateCell(alarm) {
  const until = alarm.until_ms === null ? "" : ` until ${moment(alarm.until_ms, live.status?.read_ms)}`;
  const who = byWhom({ by: alarm.by, why: alarm.why });
  return [
    element("span", {}, `${ALARM_STATES[alarm.state] ?? alarm.state}${until}`),
    who ? element("div", { class: "muted quote" }, who) : null,
  ];
}
