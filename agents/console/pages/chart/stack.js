/** Lanes above each other on one time axis, with a cursor that reads all of them at one moment. */

import { element, setText, svg } from "../core/dom.js";
import { exact, zoneName } from "../core/format.js";
import { TimeAxis } from "./axis.js";

const GUTTER = 58;

/** A chart; `set` draws lanes, and `onCursor` is called with the moment of the cursor, or null. */
export class Stack {
  root = element("div", {
    class: "stack-chart",
    tabindex: 0,
    role: "slider",
    "aria-label": "Moment in the chart",
    "aria-valuemin": 0,
    "aria-valuemax": 0,
    "aria-valuenow": 0,
  });
  cursorMs = null;
  #lanes = [];
  #drawn = [];
  #axis = null;
  #span = null;
  #stepMs = 60_000;
  #onCursor;
  #held = false;

  constructor(onCursor, signal) {
    this.#onCursor = onCursor;
    const observer = new ResizeObserver(() => this.#draw());
    observer.observe(this.root);
    signal.addEventListener("abort", () => observer.disconnect());
    this.root.addEventListener("pointermove", (event) => !this.#held && this.#point(event));
    this.root.addEventListener("pointerleave", () => !this.#held && this.cursor(null));
    this.root.addEventListener("click", (event) => {
      this.#point(event);
      this.#held = !this.#held;
      this.root.classList.toggle("held", this.#held);
    });
    this.root.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Draws lanes from `fromMs` until `untilMs`; the arrow keys move the cursor by `stepMs`. */
  set(lanes, { fromMs, untilMs, stepMs }) {
    this.#lanes = lanes;
    this.#span = { fromMs, untilMs };
    this.#stepMs = stepMs;
    this.#draw(true);
  }

  /** Moves the cursor, and reads every lane there; null takes it away. */
  cursor(ms) {
    this.cursorMs = ms;
    if (ms === null) this.#held = false;
    this.root.classList.toggle("held", this.#held);
    this.#showCursor();
    this.#onCursor(ms);
  }

  #draw(again = false) {
    const width = this.root.clientWidth;
    if (!this.#span || width < 40 || (!again && width === this.#axis?.width)) return;
    const axis = new TimeAxis(this.#span.fromMs, this.#span.untilMs, GUTTER, width);
    this.#axis = axis;
    this.#drawn = this.#lanes.map((lane) => {
      const line = svg("line", { class: "cursor", y1: 0, y2: lane.height, hidden: true });
      const picture = svg(
        "svg",
        { width, height: lane.height, viewBox: `0 0 ${width} ${lane.height}`, "aria-hidden": "true" },
        lane.draw(axis),
        line,
      );
      const read = element("span", { class: "read" });
      const head = element(
        "div",
        { class: "lane-head" },
        element("span", { class: "lane-title" }, lane.title),
        lane.note ? element("span", { class: "lane-note" }, lane.note) : null,
        read,
      );
      return { lane, line, read, node: element("div", { class: "lane" }, head, picture) };
    });
    const scale = svg(
      "svg",
      { class: "scale", width, height: 16, viewBox: `0 0 ${width} 16`, "aria-hidden": "true" },
      axis.labels(),
      svg("text", { x: 0, y: 12 }, zoneName(axis.untilMs)),
    );
    this.root.replaceChildren(...this.#drawn.map(({ node }) => node), scale);
    this.#showCursor();
  }

  #showCursor() {
    const ms = this.cursorMs;
    const inside = ms !== null && this.#axis !== null && ms >= this.#axis.fromMs && ms <= this.#axis.untilMs;
    for (const { lane, line, read } of this.#drawn) {
      line.toggleAttribute("hidden", !inside);
      if (inside) {
        line.setAttribute("x1", this.#axis.x(ms));
        line.setAttribute("x2", this.#axis.x(ms));
      }
      setText(read, inside ? lane.at(ms) : "");
    }
    const said = inside
      ? `${exact(ms)}: ${this.#drawn.map(({ lane }) => `${lane.title} ${lane.at(ms)}`).join("; ")}`
      : "none";
    this.root.setAttribute("aria-valuetext", said);
    if (this.#axis) {
      this.root.setAttribute("aria-valuemin", this.#axis.fromMs);
      this.root.setAttribute("aria-valuemax", this.#axis.untilMs);
      this.root.setAttribute("aria-valuenow", Math.round(inside ? ms : this.#axis.untilMs));
    }
  }

  #point(event) {
    if (!this.#axis) return;
    const x = event.clientX - this.root.getBoundingClientRect().left;
    if (x < this.#axis.left - 10) return;
    this.cursor(this.#axis.time(x));
  }

  #key(event) {
    if (!this.#axis) return;
    const { fromMs, untilMs } = this.#axis;
    const here = this.cursorMs ?? untilMs;
    const wide = event.shiftKey ? 10 : 1;
    const to = {
      ArrowLeft: here - wide * this.#stepMs,
      ArrowRight: here + wide * this.#stepMs,
      Home: fromMs,
      End: untilMs,
      Escape: null,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#held = to !== null;
    this.cursor(to === null ? null : Math.min(untilMs, Math.max(fromMs, to)));
  }
}
