/** What people do to alarms: a dialog asks why, the server writes it, and the next update shows it. */

import { element } from "./dom.js";
import { dayAndClock } from "./format.js";
import { message } from "./messages.js";
import { known, post } from "./session.js";

const WHYS = {
  acknowledge: ["Seen", "Seen, somebody is on the way", "Known, repair is planned"],
  shelve: ["Known, repair is planned", "Nuisance alarm", "Sensor is faulty"],
  suppress: ["Maintenance", "Out of service"],
  unshelve: ["Repaired"],
  unsuppress: ["In service again"],
  comment: [],
};
const TIMES = [
  ["30m", "30 minutes"],
  ["1h", "1 hour"],
  ["2h", "2 hours"],
  ["4h", "4 hours"],
  ["8h", "8 hours"],
  ["12h", "12 hours"],
];

/** Acknowledges alarms. */
export const acknowledge = (alarms) =>
  ask("acknowledge", "Acknowledge", alarms, "It stays in the list while the fault is there.");

/** Puts alarms aside for a time. */
export const shelve = (alarms) => ask("shelve", "Shelve", alarms, "Shelved alarms call nobody until the time is over.");

/** Takes back shelving. */
export const unshelve = (alarms) => ask("unshelve", "Unshelve", alarms);

/** Takes alarms out of service, without an end. */
export const suppress = (alarms) =>
  ask("suppress", "Take out of service", alarms, "They call nobody until somebody puts them into service again.");

/** Puts alarms into service again. */
export const unsuppress = (alarms) => ask("unsuppress", "Put into service", alarms);

/** Adds a comment. */
export const comment = (alarms) => ask("comment", "Comment", alarms);

/** The actions that an alarm allows, as [word, function]. */
export function actionsFor(alarm) {
  if (known().read_only) return [];
  const actions = [];
  if (alarm.waiting) actions.push(["Acknowledge", acknowledge]);
  if (alarm.state === "shelved") actions.push(["Unshelve", unshelve]);
  else if (alarm.state === "out-of-service") actions.push(["Put into service", unsuppress]);
  else if (alarm.state !== "normal") actions.push(["Shelve", shelve], ["Take out of service", suppress]);
  actions.push(["Comment", comment]);
  return actions;
}

function ask(kind, title, chosen, hint = "") {
  const alarms = chosen.filter((alarm) => kind !== "acknowledge" || alarm.waiting);
  if (known().read_only || !alarms.length) {
    message(known().read_only ? "This console is read-only." : "There is nothing to do here.", true);
    return;
  }
  const [why, list] = whyField(kind);
  const time = element(
    "select",
    { name: "for" },
    TIMES.map(([value, text]) => element("option", { value, selected: value === "2h" }, text)),
  );
  openForm(
    title,
    [
      element(
        "p",
        {},
        alarms.length === 1 ? `${alarms[0].alarm_title}, ${alarms[0].title}` : `${alarms.length} alarms`,
      ),
      hint ? element("p", { class: "muted" }, hint) : null,
      kind === "shelve" ? element("label", {}, "For how long", time) : null,
      element("label", {}, kind === "comment" ? "Comment" : "Why", why, list),
    ],
    title,
    async () => {
      const written = await post(`/api/alarms/${kind}`, {
        ...target(alarms),
        why: why.value,
        ...(kind === "shelve" ? { for: time.value } : {}),
      });
      message(written.said);
    },
  );
  why.select();
}

/** Alarms by id where all have one; else machine and fault of the only one. */
function target(alarms) {
  const ids = alarms.map((alarm) => alarm.id);
  if (alarms.length > 1) return { alarms: ids.filter(Boolean) };
  const [{ id, machine, fault }] = alarms;
  return id ? { alarm: id } : { machine, fault: fault === "*" ? null : fault };
}

function whyField(kind) {
  const options = WHYS[kind];
  if (kind === "comment") return [element("textarea", { required: true, maxlength: 1000 }), null];
  const list = element(
    "datalist",
    { id: "whys" },
    options.map((text) => element("option", { value: text })),
  );
  return [
    element("input", { required: true, maxlength: 1000, list: "whys", value: options[0], autocomplete: "off" }),
    list,
  ];
}

/** A dialog with a form; `send` is called with what was filled in, and what the server refuses is shown in the dialog. */
export function openForm(title, fields, button, send) {
  const refused = element("p", { class: "problem", role: "alert", hidden: true });
  const submit = element("button", { class: "primary" }, button);
  const cancel = element("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const form = element("form", {}, fields, refused, element("div", { class: "buttons" }, cancel, submit));
  const dialog = element(
    "dialog",
    { "aria-labelledby": "dialog-title" },
    element("h2", { id: "dialog-title" }, title),
    form,
  );
  dialog.addEventListener("close", () => dialog.remove());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    refused.hidden = true;
    try {
      await send();
      dialog.close();
    } catch (error) {
      refused.textContent = error.message;
      refused.hidden = false;
    } finally {
      submit.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Who did it, when and why, such as `kim, 20 Nov 14:05: repair is planned`. */
export function byWhom({ by, why, time_ms: timeMs }) {
  const who = [by, timeMs === null || timeMs === undefined ? null : dayAndClock(timeMs)].filter(Boolean).join(", ");
  return [who, why].filter(Boolean).join(": ");
}
