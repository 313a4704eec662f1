/** Which time the chart shows: the newest frames as they come, or a fixed time. */

import { element, setText } from "../core/dom.js";
import { clock, dayAndClock, duration } from "../core/format.js";

const HOUR = 3_600_000;
const LENGTHS = [
  ["", "newest"],
  [String(HOUR), "1 h"],
  [String(8 * HOUR), "8 h"],
  [String(24 * HOUR), "24 h"],
  [String(7 * 24 * HOUR), "7 days"],
];

export class SpanChooser {
  isLive = true;
  #length = null;
  #fixed = null;
  #shown = null;
  #changed;
  #said = element("span", { class: "muted" });
  #follow = element("button", { type: "button", onclick: () => this.toLive(), title: "Newest frames (l)" }, "Live");
  #select;

  constructor(changed) {
    this.#changed = changed;
    this.#select = element(
      "select",
      { "aria-label": "How long", onchange: () => this.#choose() },
      LENGTHS.map(([value, text]) => element("option", { value }, text)),
    );
    const button = (text, label, act) =>
      element("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
    this.bar = element(
      "div",
      { class: "span" },
      button("◀", "Earlier ([)", () => this.move(-1)),
      button("▶", "Later (])", () => this.move(1)),
      button("−", "A longer time (-)", () => this.zoom(2)),
      button("+", "A shorter time (+)", () => this.zoom(0.5)),
      this.#follow,
      this.#select,
      this.#said,
    );
  }

  /** What to ask the server for; null where it shall choose. */
  query(document) {
    if (this.#fixed) return this.#fixed;
    if (this.#length === null || document === null || document.newest_ms === null)
      return { fromMs: null, untilMs: null };
    return { fromMs: document.newest_ms - this.#length, untilMs: null };
  }

  /** Says what is shown. */
  show(document) {
    this.#shown = document;
    const { from_ms: fromMs, until_ms: untilMs } = document;
    setText(
      this.#said,
      `${dayAndClock(fromMs)} – ${untilMs - fromMs < 12 * HOUR ? clock(untilMs) : dayAndClock(untilMs)} (${duration(untilMs - fromMs)})`,
    );
    this.#follow.setAttribute("aria-pressed", String(this.isLive));
  }

  /** Half a window earlier or later. */
  move(direction) {
    if (!this.#shown) return;
    const { from_ms: fromMs, until_ms: untilMs } = this.#shown;
    const by = (direction * (untilMs - fromMs)) / 2;
    this.#fix(fromMs + by, untilMs + by);
  }

  /** Longer or shorter, with the same end if it is live, else the same middle. */
  zoom(factor) {
    if (!this.#shown) return;
    const { from_ms: fromMs, until_ms: untilMs } = this.#shown;
    const length = Math.max((untilMs - fromMs) * factor, 60_000);
    if (this.isLive) {
      this.#length = length;
      this.#changed();
      return;
    }
    const middle = (fromMs + untilMs) / 2;
    this.#fix(middle - length / 2, middle + length / 2);
  }

  /** The newest frames again. */
  toLive() {
    this.#fixed = null;
    this.isLive = true;
    this.#changed();
  }

  #fix(fromMs, untilMs) {
    this.#fixed = { fromMs, untilMs };
    this.isLive = false;
    this.#changed();
  }

  #choose() {
    this.#length = this.#select.value ? Number(this.#select.value) : null;
    this.toLive();
  }
}
