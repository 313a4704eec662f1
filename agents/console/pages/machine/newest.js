/** The newest diagnosis: what is likely, what stands out, and what to check first. */

import { element, facts, headedList } from "../core/dom.js";
import { dayAndClock, exact, percent } from "../core/format.js";
import { wordsOf } from "./lanes.js";

const MAX_CLASSES = 5;

export function newestPanel(document) {
  const { newest } = document;
  if (newest === null)
    return element(
      "section",
      { class: "panel" },
      element("p", { class: "empty" }, "There is no diagnosis of this machine yet."),
    );
  const words = wordsOf(document);
  const about = document.faults[newest.fault];
  return element(
    "section",
    { class: "panel", "aria-label": "Diagnosis" },
    element(
      "h2",
      {},
      newest.frame_end_ms < document.newest_ms
        ? `Diagnosis at ${dayAndClock(newest.frame_end_ms)}`
        : "Newest diagnosis",
    ),
    bars(newest.probabilities.slice(0, MAX_CLASSES).map((one) => [one.title ?? words(one.fault), one.probability])),
    about?.description ? element("p", { class: "about" }, about.description) : null,
    ...headedList("Check first", about?.check_first ?? [], "ol"),
    ...headedList(
      "What stands out",
      newest.variables.map((one) => one.said),
    ),
    ...headedList(
      "Frozen",
      newest.frozen.map((one) => one.title),
    ),
    ...(newest.components.length
      ? [element("h3", {}, "Where"), bars(newest.components.slice(0, 4).map((one) => [one.title, one.probability]))]
      : []),
    element("h3", {}, "More"),
    facts([
      ["Remaining life", newest.remaining?.said],
      ["May be", newest.candidates.length > 1 ? newest.candidates.map(words).join(", ") : null],
      ["Entropy", `${newest.entropy.toFixed(2)} nats`],
      ["Disagreement", `${newest.disagreement.toFixed(2)} nats`],
      ["Novelty", newest.novelty === null ? null : `${newest.novelty.toFixed(2)} (alarm limit 1)`],
      ["Frame until", exact(newest.frame_end_ms)],
      ["Model", document.model ? `${document.model.name} ${document.model.hash.slice(0, 12)}` : null],
    ]),
  );
}

/** Names with bars and shares. */
export function bars(entries) {
  return element(
    "div",
    { class: "bars" },
    entries.flatMap(([name, share]) => {
      const bar = element("span", { class: "bar" }, element("span", {}));
      bar.firstChild.style.width = `${(100 * share).toFixed(1)}%`;
      return [element("span", { class: "bar-name" }, name), bar, element("span", { class: "number" }, percent(share))];
    }),
  );
}
