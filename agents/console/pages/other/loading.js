/** Loads a document again and again while a page is shown, and shows what goes wrong. */

import { element } from "../core/dom.js";
import { get } from "../core/session.js";

const AGAIN_MS = 5_000;

/** `draw` makes elements of the document; what is open stays open, and scrolling stays where it was. */
export function keepLoading(path, signal, body, draw) {
  body.replaceChildren(element("p", { class: "busy" }, "Reading"));
  let before = "";
  const load = async () => {
    try {
      const document = await get(path, signal);
      const now = JSON.stringify({ ...document, version: 0, read_ms: 0 });
      if (now !== before) replace(body, draw(document).filter(Boolean));
      before = now;
    } catch (error) {
      if (error.name === "AbortError") return;
      before = "";
      body.replaceChildren(element("p", { class: "problem", role: "alert" }, error.message));
    }
    if (!signal.aborted) setTimeout(() => !signal.aborted && load(), AGAIN_MS);
  };
  load();
}

function replace(body, parts) {
  const open = new Set([...body.querySelectorAll("details[open] > summary .id")].map((id) => id.textContent));
  body.replaceChildren(...parts);
  for (const details of body.querySelectorAll("details"))
    details.open = open.has(details.querySelector("summary .id")?.textContent);
}
