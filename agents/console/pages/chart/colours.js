/** Colours of faults that colour-blind people can distinguish: seven of Okabe and Ito, then the same with patterns. */

import { svg } from "../core/dom.js";

const PLAIN = 7;
const PATTERNS = [null, "stripes", "dots", "bars"];
const FIXED = { normal: "normal", recovering: "recovering", unknown: "unknown", no_evidence: "nothing" };

/** Gives each fault of a chart the same colour in all of its lanes. */
export class FaultColours {
  #places = new Map();

  constructor(faults) {
    for (const fault of faults)
      if (!(fault in FIXED) && !this.#places.has(fault)) this.#places.set(fault, this.#places.size);
  }

  /** Class and pattern of a fault. */
  of(fault) {
    if (fault in FIXED)
      return { kind: FIXED[fault], pattern: fault === "unknown" || fault === "recovering" ? "stripes" : null };
    const place = this.#places.get(fault) ?? 0;
    return { kind: `fault${place % PLAIN}`, pattern: PATTERNS[Math.floor(place / PLAIN) % PATTERNS.length] };
  }
}

/** The patterns, once in a document that uses them. */
export function patterns() {
  const drawn = {
    stripes: svg("path", { d: "M0 6L6 0M-1 1L1 -1M5 7L7 5" }),
    dots: svg("circle", { cx: 3, cy: 3, r: 1.2 }),
    bars: svg("path", { d: "M3 0V6" }),
  };
  const all = Object.entries(drawn).map(([id, shape]) =>
    svg("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" }, shape),
  );
  return svg("svg", { class: "patterns", width: 0, height: 0, "aria-hidden": "true" }, svg("defs", {}, all));
}
