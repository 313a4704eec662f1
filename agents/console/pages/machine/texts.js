/** The texts about a machine, the newest first; they are hostile input and only ever shown as text. */

import { element } from "../core/dom.js";
import { dayAndClock, exact } from "../core/format.js";

const MOST = 40;

/** Fills the panel; the answer's `mark` shows one text. */
export function textsPanel(root, { texts }, showMoment) {
  const items = new Map();
  for (const text of texts.slice(-MOST).reverse()) {
    const more = [text.source, text.severity, text.late ? "came late" : null, text.refused ? "too old to count" : null].filter(Boolean).join(", ");
    items.set(
      text.id,
      element(
        "li",
        {},
        element("button", { type: "button", class: "opener nowrap", title: exact(text.time_ms), onclick: () => showMoment(text.time_ms) }, dayAndClock(text.time_ms)),
        element("span", { class: "quote" }, text.text),
        more ? element("span", { class: "muted" }, more) : null,
      ),
    );
  }
  const content = items.size ? element("ol", { class: "texts" }, [...items.values()]) : element("p", { class: "muted" }, "No text in this time.");
  root.replaceChildren(element("h2", {}, texts.length > MOST ? `Texts (the newest ${MOST} of ${texts.length})` : "Texts"), content);
  return {
    mark(text) {
      for (const item of items.values()) item.classList.remove("marked");
      const item = items.get(text.id);
      item?.classList.add("marked");
      item?.scrollIntoView({ block: "nearest" });
    },
  };
}
