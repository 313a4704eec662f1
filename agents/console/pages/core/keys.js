/** Keyboard shortcuts and the help that lists them; a page adds its own while it is shown. */

import { element } from "./dom.js";
import { MEANINGS, PRIORITIES, prioritySymbol, capital, STATES, stateSymbol } from "./symbols.js";

const shortcuts = new Map();

/** Adds a shortcut until the signal ends it. */
export function shortcut(key, meaning, act, signal) {
  const entry = { meaning, act };
  shortcuts.set(key, entry);
  signal?.addEventListener("abort", () => shortcuts.get(key) === entry && shortcuts.delete(key));
}

/** Begins to listen; keys that somebody types into a field are theirs. */
export function listen() {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
    const field = event.target.closest?.("input, textarea, select, dialog");
    if (field) return;
    const entry = shortcuts.get(event.key);
    if (!entry) return;
    event.preventDefault();
    entry.act(event);
  });
}

/** Shows what the keys do here, and what the symbols mean. */
export function showHelp() {
  const keys = [...shortcuts].flatMap(([key, { meaning }]) => [
    element("span", {}, element("kbd", {}, key)),
    element("span", {}, meaning),
  ]);
  const fixed = [
    ["Arrows", "move over tiles, rows, and times of a chart"],
    ["Enter", "open what has the focus"],
    ["Esc", "close, clear the search"],
  ];
  keys.push(
    ...fixed.flatMap(([key, meaning]) => [element("span", {}, element("kbd", {}, key)), element("span", {}, meaning)]),
  );
  const dialog = element(
    "dialog",
    { "aria-labelledby": "help-title", onclose: () => dialog.remove() },
    element("h2", { id: "help-title" }, "Keys"),
    element("div", { class: "keys" }, keys),
    element("h2", {}, "Symbols"),
    element("div", { class: "keys" }, symbols()),
    element("form", { method: "dialog", class: "buttons" }, element("button", { autofocus: true }, "Close")),
  );
  document.body.append(dialog);
  dialog.showModal();
}

function symbols() {
  const priorities = PRIORITIES.map((name) => [
    [prioritySymbol(name), prioritySymbol(name, true)],
    `${capital(name)} alarm: not acknowledged, and acknowledged`,
  ]);
  const states = Object.keys(STATES).map((state) => [
    [state === "fault" ? prioritySymbol(null, true) : stateSymbol(state)],
    `${STATES[state]}${state === "fault" ? " without an alarm" : ""}. ${MEANINGS[state]}`,
  ]);
  return [...priorities, ...states]
    .filter(([[symbol]]) => symbol)
    .flatMap(([marks, meaning]) => [element("span", { class: "badge" }, marks), element("span", {}, meaning)]);
}
