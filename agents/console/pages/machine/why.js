/** Why the answer is as it is: what moved it, and what would change it; computed when somebody asks. */

import { element } from "../core/dom.js";
import { clock, percent } from "../core/format.js";
import { get } from "../core/session.js";
import { capital } from "../core/symbols.js";

const MAX_PARTS = 6;
const KINDS = { variable: "Variables", component: "Components", text: "Texts", word: "Words", modality: "Modalities" };

export class WhyPanel {
  #newest = null;
  #words = null;
  #chosen = null;
  #signal;
  #loading = null;
  #button = element("button", { type: "button", onclick: () => this.ask() }, "Why?");
  #result = element("div", { "aria-live": "polite" });

  constructor(signal) {
    this.#signal = signal;
    signal.addEventListener("abort", () => this.#loading?.abort());
    this.root = element(
      "section",
      { class: "panel why", "aria-label": "Why" },
      element("div", { class: "title-row" }, element("h2", {}, "Why"), this.#button),
      this.#result,
    );
    this.#result.append(
      element(
        "p",
        { class: "muted" },
        "What moved the answer is computed on request, from the machine's own records. A click into the chart chooses another moment.",
      ),
    );
  }

  /** The newest diagnosis is explained if no other one is chosen; `words` gives a fault's title. */
  newest(newest, words) {
    this.#newest = newest;
    this.#words = words;
    this.#label();
  }

  /** Chooses the diagnosis of a frame, or the newest one with null. */
  at(frame) {
    this.#chosen = frame;
    this.#label();
  }

  /** Has the server explain, and shows that it works. */
  async ask() {
    const id = this.#chosen?.id ?? this.#newest?.id;
    if (!id) return;
    this.#loading?.abort();
    const request = new AbortController();
    this.#loading = request;
    this.#result.replaceChildren(element("p", { class: "busy" }, "Computing what moved this answer"));
    try {
      const why = await get(`/api/diagnoses/${encodeURIComponent(id)}/why`, request.signal);
      if (!this.#signal.aborted) this.#result.replaceChildren(...explanation(why, this.#words));
    } catch (error) {
      if (error.name !== "AbortError") this.#result.replaceChildren(element("p", { class: "problem" }, error.message));
    }
  }

  #label() {
    this.#button.textContent = this.#chosen ? `Why at ${clock(this.#chosen.endMs)}?` : "Why?";
    this.#button.disabled = !this.#chosen && !this.#newest;
  }
}

function explanation(why, words) {
  const largest = Math.max(1e-9, ...why.contributions.map((one) => Math.abs(one.contribution)));
  const groups = Object.entries(KINDS).flatMap(([kind, heading]) => {
    const entries = why.contributions.filter((one) => one.kind === kind).slice(0, MAX_PARTS);
    return entries.length
      ? [
          element("h3", {}, heading),
          element(
            "div",
            { class: "bars balances" },
            entries.flatMap((one) => contribution(one, largest)),
          ),
        ]
      : [];
  });
  return [
    element(
      "p",
      {},
      element("strong", {}, `${capital(words(why.fault))}, ${percent(why.confidence)}`),
      ` at ${clock(why.frame_end)}`,
    ),
    element(
      "p",
      { class: "muted" },
      `${capital(why.evidence_said)}. Bars to the right speak for the answer, bars to the left against it.`,
    ),
    why.would_change_said
      ? element("p", { class: "about" }, element("strong", {}, "What would change it: "), why.would_change_said)
      : null,
    ...groups,
    why.differs ? element("p", { class: "problem" }, why.differs) : null,
  ].filter(Boolean);
}

function contribution(one, largest) {
  const against = one.contribution < 0;
  const bar = element("span", { class: against ? "balance against" : "balance" }, element("span", {}));
  bar.firstChild.style.width = `${((50 * Math.abs(one.contribution)) / largest).toFixed(1)}%`;
  const text = one.text && one.text !== one.said ? element("div", { class: "muted quote" }, one.text) : null;
  return [
    element("span", { class: "bar-name" }, one.said ?? one.title, text),
    bar,
    element("span", { class: "number" }, `${against ? "−" : "+"}${Math.abs(one.contribution).toFixed(2)}`),
  ];
}
