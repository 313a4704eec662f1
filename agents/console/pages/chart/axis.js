/** The time axis that all lanes of a chart share. */

import { svg } from "../core/dom.js";
import { clock, dayAndClock, zoneOffset } from "../core/format.js";

const MINUTE = 60_000;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1_440, 2_880, 10_080, 20_160].map(
  (minutes) => minutes * MINUTE,
);
const PIXELS_PER_TICK = 88;

/** Maps times to pixels: `left` is the gutter for labels. */
export class TimeAxis {
  constructor(fromMs, untilMs, left, width) {
    this.fromMs = fromMs;
    this.untilMs = Math.max(untilMs, fromMs + 1);
    this.left = left;
    this.width = width;
  }

  get right() {
    return this.width - 4;
  }

  x(ms) {
    const share = (ms - this.fromMs) / (this.untilMs - this.fromMs);
    return this.left + Math.min(1, Math.max(0, share)) * (this.right - this.left);
  }

  time(x) {
    const share = (x - this.left) / (this.right - this.left);
    return this.fromMs + Math.min(1, Math.max(0, share)) * (this.untilMs - this.fromMs);
  }

  /** Round local times, as many as fit. */
  ticks() {
    const most = Math.max(2, Math.floor((this.right - this.left) / PIXELS_PER_TICK));
    const step = STEPS.find((one) => (this.untilMs - this.fromMs) / one <= most) ?? STEPS.at(-1);
    const offset = zoneOffset(this.fromMs);
    const ticks = [];
    for (let at = Math.ceil((this.fromMs + offset) / step) * step - offset; at <= this.untilMs; at += step)
      ticks.push(at);
    return ticks;
  }

  /** Lines at the ticks, behind what a lane draws. */
  grid(height) {
    return this.ticks().map((at) => svg("line", { class: "grid", x1: this.x(at), x2: this.x(at), y1: 0, y2: height }));
  }

  /** The labels below the lanes; the day is named at the first tick and where it changes. */
  labels() {
    let day = "";
    return this.ticks().map((at) => {
      const full = dayAndClock(at);
      const today = full.slice(0, -6);
      const text = today === day ? clock(at) : full;
      day = today;
      const x = this.x(at);
      const anchor = x > this.right - 40 ? "end" : x < this.left + 30 ? "start" : "middle";
      return svg("text", { x, y: 12, "text-anchor": anchor }, text);
    });
  }
}
