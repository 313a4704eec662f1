/** The dialog in which people choose variables to see, besides those that matter most. */

import { openForm } from "../core/actions.js";
import { element } from "../core/dom.js";

/** The chosen names, or null if nobody chose. */
export function chooseVariables({ variables }, requested) {
  const chosen = new Set(requested);
  const entries = variables.map((one) => {
    const box = element("input", {
      type: "checkbox",
      checked: chosen.has(one.name),
      onchange: (event) => (event.target.checked ? chosen.add(one.name) : chosen.delete(one.name)),
    });
    const unit = one.unit ? ` (${one.unit})` : "";
    return {
      words: `${one.title} ${one.name}`.toLowerCase(),
      node: element(
        "label",
        { class: "choice" },
        box,
        `${one.title}${unit}`,
        element("span", { class: "id" }, one.title === one.name ? "" : one.name),
      ),
    };
  });
  const search = element("input", {
    type: "search",
    placeholder: "Search",
    "aria-label": "Search variables",
    oninput: () => entries.forEach(({ words, node }) => (node.hidden = !words.includes(search.value.toLowerCase()))),
  });
  return new Promise((resolve) => {
    let answer = null;
    const dialog = openForm(
      "Variables",
      [
        search,
        element(
          "div",
          { class: "choices" },
          entries.map(({ node }) => node),
        ),
      ],
      "Show",
      async () => {
        answer = [...chosen];
      },
    );
    dialog.addEventListener("close", () => resolve(answer));
  });
}
