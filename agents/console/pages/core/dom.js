/** Builds elements; what comes from outside only ever becomes text, so that markup in it stays text. */

import { dayAndClock, exact } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element; attributes whose names begin with `on` are listeners, and null children are left out. */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

/** Sets a text only where it has changed: most tiles stay as they are. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets or removes an attribute only where it has changed. */
export function setAttribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

const drawn = new WeakMap();

/** Fills an element again only if what it shows has changed, so that focus and selection stay where they are. */
export function fillIfChanged(root, shown, make) {
  const now = JSON.stringify(shown);
  if (drawn.get(root) === now) return;
  drawn.set(root, now);
  root.replaceChildren(...[make()].flat().filter(Boolean));
}

/** A section with a title. */
export const panel = (title, ...content) =>
  element("section", { class: "panel", "aria-label": title }, element("h2", {}, title), ...content);

/** A moment, with its seconds and zone as tooltip. */
export const time = (ms) =>
  ms === null ? "–" : element("time", { title: exact(ms), class: "nowrap" }, dayAndClock(ms));

/** A heading with a list below it, or nothing where the list is empty; `kind` is `ul` or `ol`. */
export function headedList(title, entries, kind = "ul") {
  if (!entries.length) return [];
  const items = entries.map((entry) => element("li", {}, entry));
  return [element("h3", {}, title), element(kind, { class: kind === "ul" ? "plain" : null }, items)];
}

/** A table; `columns` are [heading, class], and each row is a list of what its cells hold. */
export function table(columns, rows, caption) {
  const cell = (content, place) =>
    element("td", { class: columns[place][1], "data-heading": columns[place][0] || null }, content);
  return element(
    "div",
    { class: "table" },
    element(
      "table",
      { class: "cards" },
      caption ? element("caption", { class: "only-read-aloud" }, caption) : null,
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          columns.map(([head, kind]) => element("th", { scope: "col", class: kind }, head)),
        ),
      ),
      element(
        "tbody",
        {},
        rows.map((row) => element("tr", {}, row.map(cell))),
      ),
    ),
  );
}

/** A list of terms and what they mean; entries without a value are left out. */
export function facts(entries) {
  const known = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element(
    "dl",
    { class: "facts" },
    known.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)]),
  );
}
