/** One machine as a tile: what it has, how sure that is, and since when. */

import { element, setAttribute, setText } from "../core/dom.js";
import { moment, percent } from "../core/format.js";
import { live } from "../core/live.js";
import { machineAddress } from "../core/router.js";
import { capital, MEANINGS, prioritySymbol, STATES, stateSymbol, WITHOUT_DATA } from "../core/symbols.js";

/** An empty tile; `update` fills it. */
export function makeTile(id) {
  return element(
    "a",
    { class: "tile", href: machineAddress(id), tabindex: -1, "data-machine": id },
    element("span", { class: "mark" }),
    element("span", { class: "name" }),
    element("span", { class: "what" }),
    element("span", { class: "more" }),
  );
}

/** Draws a machine's state in its tile. */
export function updateTile(node, tile) {
  const [mark, name, what, more] = node.children;
  const symbol = `${tile.state} ${tile.priority} ${tile.acknowledged} ${tile.shelved}`;
  if (node.dataset.symbol !== symbol) {
    node.dataset.symbol = symbol;
    node.dataset.state = tile.state;
    setAttribute(node, "data-priority", shownPriority(tile));
    setAttribute(node, "data-waiting", tile.alarm !== null && !tile.acknowledged && !isHeld(tile) ? "yes" : null);
    mark.replaceChildren(...[symbolOf(tile)].filter(Boolean));
  }
  setText(name, tile.title);
  setText(what, whatIs(tile));
  setText(more, moreOf(tile));
  setAttribute(node, "aria-label", spoken(tile));
  setAttribute(node, "title", `${tile.id}: ${whatIs(tile)}. ${MEANINGS[tile.state] ?? ""}`);
}

const isHeld = (tile) => tile.shelved || tile.suppressed;
const shownPriority = (tile) => (tile.alarm === null || isHeld(tile) ? null : tile.priority);

function symbolOf(tile) {
  if (tile.alarm !== null && !isHeld(tile)) return prioritySymbol(tile.priority, tile.acknowledged);
  if (tile.state === "fault") return prioritySymbol(null, true);
  return stateSymbol(tile.state);
}

/** The fault's title, or the state. */
function whatIs(tile) {
  if (tile.state === "fault") return tile.fault_title ?? tile.fault;
  return STATES[tile.state] ?? tile.state;
}

function moreOf(tile) {
  const parts = [];
  if (tile.state === "fault" || tile.state === "recovering" || tile.state === "unknown")
    parts.push(percent(tile.confidence));
  if (tile.state !== "normal" && tile.since_ms !== null) {
    parts.push(`${tile.since_known ? "since" : "since before"} ${moment(tile.since_ms, live.status?.read_ms)}`);
  }
  if (tile.shelved) parts.push("shelved");
  else if (tile.suppressed) parts.push("out of service");
  if (tile.drifting) parts.push("drifting");
  return parts.join(" · ");
}

function spoken(tile) {
  const alarm = shownPriority(tile)
    ? `${capital(tile.priority)} alarm, ${tile.acknowledged ? "acknowledged" : "not acknowledged"}`
    : "";
  const fault = tile.state === "fault" ? `Fault: ${whatIs(tile)}` : whatIs(tile);
  const name = tile.title === tile.id ? tile.id : `${tile.title}, ${tile.id}`;
  return [name, alarm, fault, moreOf(tile).replaceAll(" · ", ", ")].filter(Boolean).join(". ");
}

/** Whether a tile fits what is chosen: words, state, priority and area. */
export function matches(tile, { words, state, priority, area, abnormal }) {
  if (abnormal && tile.state === "normal" && tile.alarm === null) return false;
  if (state && !(state === "no_data" ? WITHOUT_DATA.has(tile.state) : tile.state === state)) return false;
  if (priority && shownPriority(tile) !== priority) return false;
  if (area && tile.area !== area) return false;
  if (!words.length) return true;
  const text = `${tile.name} ${tile.area_title ?? ""} ${whatIs(tile)} ${tile.fault ?? ""}`.toLowerCase();
  return words.every((word) => text.includes(word));
}
