/** Areas with their tiles, utilities and causes; tiles keep their places, so that people find them again. */

import { element, setText } from "../core/dom.js";
import { count, moment, percent } from "../core/format.js";
import { live } from "../core/live.js";
import { prioritySymbol } from "../core/symbols.js";
import { makeTile, updateTile } from "./tiles.js";

const NO_AREA = "";

/** The sections of one plant page. */
export class Sections {
  #root;
  #sections = new Map();
  #tiles = new Map();

  constructor(root) {
    this.#root = root;
  }

  /** Builds everything again; afterwards tiles are only updated. */
  rebuild(machines, areas) {
    const focused = document.activeElement?.dataset?.machine;
    const byArea = new Map([...areas.keys()].map((id) => [id, []]));
    for (const tile of machines.values()) {
      const area = areas.has(tile.area) ? tile.area : NO_AREA;
      if (!byArea.has(area)) byArea.set(area, []);
      byArea.get(area).push(tile);
    }
    this.#tiles.clear();
    this.#sections.clear();
    for (const [id, tiles] of byArea) {
      if (tiles.length || areas.has(id)) this.#sections.set(id, this.#section(id, tiles, byArea.size));
    }
    this.#root.replaceChildren(...[...this.#sections.values()].map((section) => section.root));
    for (const area of areas.values()) this.describe(area);
    if (focused) this.#tiles.get(focused)?.node.focus();
  }

  /** Whether there are tiles and sections of just these machines and areas. */
  fit(machines, areas) {
    const declared = [...this.#sections.keys()].filter((id) => id !== NO_AREA);
    return (
      machines.size === this.#tiles.size &&
      declared.length === areas.size &&
      declared.every((id) => areas.has(id)) &&
      [...machines.values()].every((tile) => this.knows(tile))
    );
  }

  /** Whether a machine has a tile in the area that it is in now. */
  knows(tile) {
    const kept = this.#tiles.get(tile.id);
    return kept !== undefined && kept.area === (this.#sections.has(tile.area) ? tile.area : NO_AREA);
  }

  /** Draws a machine's new state. */
  update(tile) {
    const kept = this.#tiles.get(tile.id);
    if (kept) updateTile(kept.node, tile);
    return kept !== undefined;
  }

  /** Shows or hides a tile; `finish` counts afterwards. */
  show(id, visible) {
    const kept = this.#tiles.get(id);
    if (!kept || kept.visible === visible) return;
    kept.visible = visible;
    kept.node.hidden = !visible;
  }

  /** Hides empty sections, makes one tile reachable by Tab, and says how many are shown. */
  finish() {
    let shown = 0;
    let reachable = null;
    const visible = new Map([...this.#sections.keys()].map((id) => [id, 0]));
    for (const kept of this.#tiles.values()) {
      if (!kept.visible) continue;
      shown += 1;
      visible.set(kept.area, visible.get(kept.area) + 1);
      if (kept.node.tabIndex === 0) reachable ??= kept.node;
    }
    for (const [id, section] of this.#sections) {
      section.root.hidden = visible.get(id) === 0;
      setText(
        section.counted,
        visible.get(id) === section.size
          ? `${count(section.size)} machines`
          : `${count(visible.get(id))} of ${count(section.size)} machines`,
      );
    }
    if (!reachable) {
      for (const kept of this.#tiles.values()) {
        kept.node.tabIndex = -1;
        if (kept.visible && !reachable) reachable = kept.node;
      }
      if (reachable) reachable.tabIndex = 0;
    }
    return shown;
  }

  /** Draws an area's utilities and the cause that its diagnosis names. */
  describe(area) {
    const section = this.#sections.get(area.id);
    if (!section) return;
    const { cause } = area;
    const named = cause !== null && cause.kind !== "none";
    section.cause.hidden = !named;
    if (named) {
      const since = cause.since_ms === null ? "" : `, since ${moment(cause.since_ms, live.status?.read_ms)}`;
      setText(
        section.cause,
        `Common cause: ${cause.title}, ${cause.fault_title ?? cause.fault} (${percent(cause.probability)}${since})`,
      );
    }
    section.utilities.replaceChildren(...area.utilities.map((utility) => utilityChip(utility)));
  }

  /** Moves the focus from a tile by an arrow key; false if there is nothing that way. */
  move(from, key) {
    const shown = [...this.#tiles.values()].filter((kept) => kept.visible).map((kept) => kept.node);
    const place = shown.indexOf(from);
    if (place < 0) return false;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    const next = step ? shown[place + step] : this.#vertical(from, key === "ArrowDown" ? 1 : -1);
    if (!next) return false;
    from.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    return true;
  }

  #vertical(from, step) {
    const visible = (grid) => [...grid.children].filter((node) => !node.hidden);
    const columns = getComputedStyle(from.parentElement).gridTemplateColumns.split(" ").length;
    const here = visible(from.parentElement);
    const place = here.indexOf(from);
    const column = place % columns;
    const next = place + step * columns;
    if (next >= 0 && next < here.length) return here[next];
    // An incomplete last row is reached before the next area.
    if (step > 0 && Math.floor(place / columns) < Math.floor((here.length - 1) / columns)) return here.at(-1);
    const grids = [...this.#sections.values()].filter((section) => !section.root.hidden).map((section) => section.grid);
    const there = grids[grids.indexOf(from.parentElement) + step];
    if (!there) return null;
    const tiles = visible(there);
    if (step > 0) return tiles[Math.min(column, tiles.length - 1)];
    const lastRow = Math.floor((tiles.length - 1) / columns) * columns;
    return tiles[Math.min(lastRow + column, tiles.length - 1)];
  }

  #section(id, tiles, areas) {
    const title = live.areas.get(id)?.title ?? (areas > 1 ? "Without an area" : "Machines");
    const grid = element("div", { class: "tiles" });
    for (const tile of tiles) {
      const node = makeTile(tile.id);
      updateTile(node, tile);
      grid.append(node);
      this.#tiles.set(tile.id, { node, area: id, visible: true });
    }
    const counted = element("span", { class: "muted" });
    const cause = element("p", { class: "cause", hidden: true });
    const utilities = element("div", { class: "utilities" });
    const head = element("header", {}, element("h2", {}, title), counted, utilities);
    const root = element("section", { class: "area", "aria-label": title }, head, cause, grid);
    return { root, grid, counted, cause, utilities, size: tiles.length };
  }
}

function utilityChip(utility) {
  const bad = utility.state === "fault";
  const symbol =
    utility.alarm !== null && !utility.shelved && !utility.suppressed
      ? prioritySymbol(utility.priority, utility.acknowledged)
      : null;
  const state = bad
    ? `${utility.fault_title ?? utility.fault} ${percent(utility.probability)}`
    : utility.state === "normal"
      ? "normal"
      : "no diagnosis yet";
  return element(
    "span",
    { class: "utility", "data-state": utility.state, title: `Utility ${utility.utility}` },
    symbol,
    element("span", {}, `${utility.title}: `, element(bad ? "strong" : "span", {}, state)),
  );
}
