/** The texts about a machine, the newest first; they are hostile input and only ever shown as text. */

import { element, fillIfChanged } from "../core/dom.js";
import { dayAndClock, exact } from "../core/format.js";

const MAX_TEXTS = 40;

/** The panel; `showMoment` is called with the time of a text that somebody chooses. */
export class TextsPanel {
  root = element("section", { class: "panel", "aria-label": "Texts" });
  #items = new Map();
  #showMoment;

  constructor(showMoment) {
    this.#showMoment = showMoment;
  }

  /** Lists the newest of these texts. */
  draw(texts) {
    fillIfChanged(this.root, texts, () => {
      this.#items = new Map(
        texts
          .slice(-MAX_TEXTS)
          .reverse()
          .map((text) => [text.id, this.#item(text)]),
      );
      const title = texts.length > MAX_TEXTS ? `Texts (the newest ${MAX_TEXTS} of ${texts.length})` : "Texts";
      const content = this.#items.size
        ? element("ol", { class: "texts" }, [...this.#items.values()])
        : element("p", { class: "muted" }, "No text in this time.");
      return [element("h2", {}, title), content];
    });
  }

  /** Shows which one a text of the chart is. */
  mark(text) {
    for (const item of this.#items.values()) item.classList.remove("marked");
    const item = this.#items.get(text.id);
    item?.classList.add("marked");
    item?.scrollIntoView({ block: "nearest" });
  }

  #item(text) {
    const more = [text.source, text.severity, text.late ? "came late" : null, text.refused ? "too old to count" : null]
      .filter(Boolean)
      .join(", ");
    return element(
      "li",
      {},
      element(
        "button",
        {
          type: "button",
          class: "opener nowrap",
          title: exact(text.time_ms),
          onclick: () => this.#showMoment(text.time_ms),
        },
        dayAndClock(text.time_ms),
      ),
      element("span", { class: "quote" }, text.text),
      more ? element("span", { class: "muted" }, more) : null,
    );
  }
}
