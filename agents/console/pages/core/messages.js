/** Short messages in the corner, and what is read aloud. */

import { element } from "./dom.js";

const SHOWN_MS = 6_000;
const QUIET_MS = 4_000;

/** Shows a message for some seconds; of a failure, until it is clicked. */
export function message(text, failed = false) {
  const box = document.getElementById("messages");
  const shown = element("p", { class: failed ? "failed" : null, onclick: () => shown.remove() }, text);
  box.append(shown);
  if (!failed) setTimeout(() => shown.remove(), SHOWN_MS);
}

let waiting = [];
let timer = null;

/** Has a screen reader say something; what comes in quick succession is said together, and many things as a number. */
export function announce(text) {
  waiting.push(text);
  timer ??= setTimeout(() => {
    const said = waiting.length > 3 ? `${waiting.length} new alarms. The first: ${waiting[0]}` : waiting.join(". ");
    document.getElementById("spoken").textContent = said;
    waiting = [];
    timer = null;
  }, QUIET_MS);
}
