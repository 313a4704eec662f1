/** The filter bar: search, buttons for states and priorities with their counts, and the area; kept in the address. */

import { element, setText } from "../core/dom.js";
import { count } from "../core/format.js";
import { capital, PRIORITIES, prioritySymbol, STATES, stateSymbol, WITHOUT_DATA } from "../core/symbols.js";

const SHOWN_STATES = ["fault", "unknown", "recovering", "no_data", "normal"];

/** What is chosen, and the bar in which people choose. */
export class Filters {
  chosen = { words: [], state: "", priority: "", area: "", abnormal: false };
  #changed;
  #buttons = new Map();
  #search;
  #area;

  constructor(changed) {
    this.#changed = changed;
    const asked = new URLSearchParams(location.search);
    for (const key of ["state", "priority", "area"]) this.chosen[key] = asked.get(key) ?? "";
    this.chosen.abnormal = asked.get("only") === "abnormal";
    this.#search = element("input", {
      type: "search",
      id: "search",
      placeholder: "Search machine, area or fault",
      "aria-label": "Search machine, area or fault",
      value: asked.get("search"),
      autocomplete: "off",
      spellcheck: "false",
      maxlength: 200,
      oninput: () => this.#read(),
      onkeydown: (event) => event.key === "Escape" && this.clear(),
    });
    this.#area = element("select", { "aria-label": "Area", onchange: () => this.#read() });
    const priorities = PRIORITIES.map((name) => this.#button("priority", name, prioritySymbol(name), capital(name)));
    const states = SHOWN_STATES.map((name) =>
      this.#button(
        "state",
        name,
        stateSymbol(name === "no_data" ? "offline" : name),
        name === "no_data" ? "No data" : STATES[name],
      ),
    );
    const abnormal = this.#button("abnormal", "", null, "Not normal");
    this.bar = element(
      "div",
      { class: "filters", role: "search" },
      this.#search,
      this.#area,
      element("div", { class: "group", role: "group", "aria-label": "Alarms by priority" }, priorities),
      element("div", { class: "group", role: "group", "aria-label": "States" }, abnormal, states),
    );
    this.#read(false);
  }

  /** Puts the cursor into the search. */
  focus() {
    this.#search.focus();
    this.#search.select();
  }

  /** Shows everything again. */
  clear() {
    this.#search.value = "";
    Object.assign(this.chosen, { state: "", priority: "", abnormal: false });
    this.#area.value = "";
    this.#read();
  }

  /** Shows only what is not normal, or all again. */
  toggleAbnormal() {
    this.#buttons.get("abnormal:").button.click();
  }

  /** Offers these areas. */
  setAreas(areas) {
    const options = [["", "All areas"], ...areas.map((area) => [area.id, area.title])];
    this.#area.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
    this.#area.value = this.chosen.area;
    this.#area.hidden = areas.length < 2;
  }

  /** Shows how many machines and alarms there are of each. */
  setCounts(counts) {
    if (counts === null) return;
    const { states, priorities, machines } = counts;
    const of = (kind, name) => {
      if (kind === "priority") return priorities[name] ?? 0;
      if (kind === "abnormal") return machines - (states.normal ?? 0);
      if (name === "no_data") return [...WITHOUT_DATA].reduce((sum, state) => sum + (states[state] ?? 0), 0);
      return states[name] ?? 0;
    };
    for (const { kind, name, button, counted } of this.#buttons.values()) {
      const number = of(kind, name);
      setText(counted, count(number));
      button.classList.toggle("none", number === 0);
    }
  }

  #button(kind, name, symbol, text) {
    const counted = element("span", { class: "counted" });
    const button = element(
      "button",
      {
        type: "button",
        "aria-pressed": "false",
        onclick: () => {
          if (kind === "abnormal") this.chosen.abnormal = !this.chosen.abnormal;
          else this.chosen[kind] = this.chosen[kind] === name ? "" : name;
          this.#read();
        },
      },
      symbol,
      text,
      counted,
    );
    this.#buttons.set(`${kind}:${name}`, { kind, name, button, counted });
    return button;
  }

  #read(tell = true) {
    const { chosen } = this;
    chosen.words = this.#search.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (this.#area.options.length) chosen.area = this.#area.value;
    for (const { kind, name, button } of this.#buttons.values()) {
      button.setAttribute("aria-pressed", String(kind === "abnormal" ? chosen.abnormal : chosen[kind] === name));
    }
    if (!tell) return;
    const asked = new URLSearchParams();
    for (const key of ["state", "priority", "area"]) if (chosen[key]) asked.set(key, chosen[key]);
    if (chosen.abnormal) asked.set("only", "abnormal");
    if (this.#search.value) asked.set("search", this.#search.value);
    history.replaceState(null, "", asked.size ? `?${asked}` : location.pathname);
    this.#changed();
  }
}
