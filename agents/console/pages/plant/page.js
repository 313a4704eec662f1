/** The plant page: all machines as tiles by area, kept up to date as events come. */

import { element, setText } from "../core/dom.js";
import { count } from "../core/format.js";
import { shortcut } from "../core/keys.js";
import { follow, live } from "../core/live.js";
import { acknowledge, shelve } from "../core/actions.js";
import { Sections } from "./sections.js";
import { Filters } from "./filters.js";
import { matches } from "./tiles.js";

const COMPACT_FROM = 120;

export function plantPage(main, signal) {
  document.title = "Plant – Faultline";
  const heading = element("h1", {}, "Plant");
  const summary = element("p", { class: "muted", role: "status" });
  const body = element("div", { class: "plant" });
  const sections = new Sections(body);
  const filters = new Filters(() => apply());
  const empty = element("p", { class: "empty", hidden: true });
  main.append(element("div", { class: "title-row" }, heading, summary), filters.bar, body, empty);

  let changed = null;
  let frame = 0;

  function all() {
    changed = null;
    // After a reconnection most is as it was, and whoever looks at it finds it in its place.
    if (sections.fit(live.machines, live.areas)) {
      for (const tile of live.machines.values()) sections.update(tile);
      for (const area of live.areas.values()) sections.describe(area);
    } else {
      sections.rebuild(live.machines, live.areas);
    }
    body.dataset.density = live.machines.size >= COMPACT_FROM ? "compact" : "full";
    filters.setAreas([...live.areas.values()]);
    apply();
  }

  /** Draws what has changed, once before the next picture, however many events came. */
  function draw() {
    frame = 0;
    if (changed === null) return;
    for (const id of changed) {
      const tile = live.machines.get(id);
      if (tile && sections.update(tile)) sections.show(id, matches(tile, filters.chosen));
    }
    changed = null;
    finish();
  }

  function apply() {
    for (const tile of live.machines.values()) sections.show(tile.id, matches(tile, filters.chosen));
    finish();
  }

  function finish() {
    const shown = sections.finish();
    filters.setCounts(live.counts);
    const machines = live.machines.size;
    setText(
      summary,
      shown === machines ? `${count(machines)} machines` : `${count(shown)} of ${count(machines)} machines`,
    );
    empty.hidden = shown > 0;
    setText(empty, emptyText(machines));
  }

  function emptyText(machines) {
    if (live.counts === null) return "Waiting for the first picture of the plant …";
    return machines ? "No machine fits the filter. Esc in the search clears it." : "No diagnosis has been read yet.";
  }

  follow(["plant"], signal, all);
  follow(["machines"], signal, (detail) => {
    const known = detail.changed.every((tile) => sections.knows(tile));
    if (!known || detail.removed.length) {
      all();
      return;
    }
    changed ??= new Set();
    for (const tile of detail.changed) changed.add(tile.id);
    frame ||= requestAnimationFrame(draw);
  });
  follow(["areas"], signal, (areas) => {
    for (const area of areas) sections.describe(area);
    sections.finish();
  });
  all();

  const focused = () => live.machines.get(document.activeElement?.dataset?.machine);
  const onFocused = (act) => () => {
    const tile = focused();
    const alarm = tile && live.alarms.get(tile.alarm);
    if (alarm) act([alarm]);
  };
  shortcut("/", "search", () => filters.focus(), signal);
  shortcut("x", "only what is not normal, or all", () => filters.toggleAbnormal(), signal);
  shortcut("a", "acknowledge the alarm of the tile with the focus", onFocused(acknowledge), signal);
  shortcut("s", "shelve it", onFocused(shelve), signal);
  body.addEventListener("keydown", (event) => {
    if (event.key.startsWith("Arrow") && sections.move(document.activeElement, event.key)) event.preventDefault();
  });
}
