/** The alarm list: the most urgent first, with what people can do, counters, and what is over. */

import { acknowledge, comment, shelve, suppress, unshelve, unsuppress } from "../core/actions.js";
import { element, fillIfChanged, setText } from "../core/dom.js";
import { count } from "../core/format.js";
import { shortcut } from "../core/keys.js";
import { follow, live } from "../core/live.js";
import { known } from "../core/session.js";
import { PRIORITIES } from "../core/symbols.js";
import { counterTiles } from "./counters.js";
import { details } from "./details.js";
import { alarmRow, HEADINGS } from "./rows.js";

const VIEWS = [
  ["active", "Active", (alarm) => alarm.state !== "normal" && !isHeld(alarm)],
  ["waiting", "To acknowledge", (alarm) => alarm.waiting],
  ["held", "Shelved and out of service", (alarm) => isHeld(alarm)],
  ["over", "Over", (alarm) => alarm.state === "normal"],
];
/** In a flood the list is drawn this often, and so much of it. */
const REDRAW_MS = 500;
const MAX_ROWS = 300;
const HELD = new Set(["shelved", "out-of-service", "suppressed-by-design"]);
const isHeld = (alarm) => HELD.has(alarm.state);

export function alarmsPage(main, signal) {
  document.title = "Alarms – Faultline";
  const chosen = new Set();
  const keys = new URLSearchParams(location.search);
  let view = VIEWS.find(([name]) => name === keys.get("view")) ?? VIEWS[0];
  let open = keys.get("alarm");

  const counters = element("section", { class: "counters", "aria-label": "Counters of the last 24 hours" });
  const tabs = element("div", { class: "group views", role: "group", "aria-label": "Which alarms" });
  const search = element("input", {
    type: "search",
    placeholder: "Search machine, alarm or person",
    "aria-label": "Search alarms",
    autocomplete: "off",
    maxlength: 200,
    oninput: draw,
  });
  const bulk = element("div", { class: "bulk", hidden: true });
  const body = element("tbody", {});
  const all = element("input", {
    type: "checkbox",
    "aria-label": "Choose all",
    onchange: () => chooseAll(all.checked),
  });
  const headings = HEADINGS.map((heading, place) =>
    element("th", { scope: "col" }, place === 0 && !known().read_only ? all : heading),
  );
  const list = element(
    "table",
    { class: "cards alarms" },
    element("caption", { class: "only-read-aloud" }, "Alarms"),
    element("thead", {}, element("tr", {}, headings)),
    body,
  );
  const empty = element("p", { class: "empty" });
  const side = element("aside", { class: "panel details", "aria-label": "The chosen alarm", tabindex: -1 });
  main.append(
    element("div", { class: "title-row" }, element("h1", {}, "Alarms")),
    counters,
    element("div", { class: "filters" }, search, tabs, bulk),
    element(
      "div",
      { class: "columns list-and-details" },
      element(
        "section",
        { class: "panel", "aria-label": "Alarm list" },
        element("div", { class: "table" }, list),
        empty,
      ),
      side,
    ),
  );

  function shownAlarms() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (alarm) => {
      const text =
        `${alarm.name} ${alarm.alarm_title} ${alarm.area_title ?? ""} ${alarm.by ?? ""} ${alarm.why ?? ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    return [...live.alarms.values()]
      .filter((alarm) => view[2](alarm) && fits(alarm))
      .sort(view[0] === "over" ? byEnd : byUrgency);
  }

  function draw() {
    const alarms = shownAlarms();
    const visible = new Set(alarms.map((alarm) => alarm.key));
    for (const key of chosen) if (!visible.has(key)) chosen.delete(key);
    const focused = document.activeElement?.closest?.("tr")?.dataset.key;
    body.replaceChildren(
      ...alarms
        .slice(0, MAX_ROWS)
        .map((alarm) =>
          alarmRow(alarm, { chosen: chosen.has(alarm.key), open: alarm.key === open, onChoose: choose, onOpen: show }),
        ),
    );
    if (focused) rowOf(focused)?.querySelector(".opener").focus();
    all.checked = alarms.length > 0 && chosen.size === alarms.length;
    list.hidden = !alarms.length;
    empty.hidden = alarms.length > 0 && alarms.length <= MAX_ROWS;
    setText(
      empty,
      alarms.length ? `${count(alarms.length - MAX_ROWS)} more are not listed; the search finds them.` : emptyText(),
    );
    drawTabs();
    drawBulk();
    drawDetails();
    counters.replaceChildren(...(live.counters ? counterTiles(live.counters) : []));
  }

  const rowOf = (key) => [...body.rows].find((row) => row.dataset.key === key);

  function emptyText() {
    if (live.counters === null) return "Waiting for the first picture of the plant …";
    if (search.value) return "No alarm fits the search.";
    return {
      active: "There is no active alarm.",
      waiting: "Nothing waits for acknowledgement.",
      held: "Nothing is shelved or out of service.",
      over: "No alarm has been over since reading began.",
    }[view[0]];
  }

  function drawTabs() {
    tabs.replaceChildren(
      ...VIEWS.map((one) => {
        const number = [...live.alarms.values()].filter(one[2]).length;
        const onclick = () => {
          view = one;
          draw();
          remember();
        };
        return element(
          "button",
          { type: "button", "aria-pressed": String(one === view), onclick },
          one[1],
          element("span", { class: "counted" }, count(number)),
        );
      }),
    );
  }

  function drawBulk() {
    const alarms = [...chosen].map((key) => live.alarms.get(key)).filter(Boolean);
    bulk.hidden = !alarms.length;
    const button = (text, act) => element("button", { type: "button", onclick: () => act(alarms) }, text);
    bulk.replaceChildren(
      element("span", {}, `${count(alarms.length)} chosen:`),
      button("Acknowledge", acknowledge),
      button("Shelve", shelve),
      button("Comment", comment),
    );
  }

  function drawDetails() {
    const alarm = live.alarms.get(open);
    side.hidden = !alarm;
    side.parentElement.classList.toggle("one", !alarm);
    if (alarm) fillIfChanged(side, alarm, () => details(alarm, () => show(null)));
  }

  function choose(key, on) {
    if (on) chosen.add(key);
    else chosen.delete(key);
    drawBulk();
  }

  function chooseAll(on) {
    chosen.clear();
    if (on) for (const alarm of shownAlarms()) chosen.add(alarm.key);
    draw();
  }

  function show(key) {
    const before = open;
    open = key;
    draw();
    remember();
    if (key) side.focus({ preventScroll: innerWidth > 900 });
    else if (before) rowOf(before)?.querySelector(".opener").focus();
  }

  function remember() {
    const asked = new URLSearchParams();
    if (view !== VIEWS[0]) asked.set("view", view[0]);
    if (open) asked.set("alarm", open);
    history.replaceState(null, "", asked.size ? `?${asked}` : location.pathname);
  }

  /** The alarms that a key acts on: the chosen ones, else that of the row with the focus, else the open one. */
  function acted() {
    const row = document.activeElement?.closest?.("tr")?.dataset.key;
    const names = chosen.size ? [...chosen] : [row ?? open];
    return names.map((key) => live.alarms.get(key)).filter(Boolean);
  }

  const press = (act) => () => {
    const alarms = acted();
    if (alarms.length) act(alarms);
  };
  shortcut("/", "search", () => search.focus(), signal);
  shortcut("a", "acknowledge the chosen alarms, or that of the row with the focus", press(acknowledge), signal);
  shortcut("s", "shelve them", press(shelve), signal);
  shortcut("u", "unshelve them", press(unshelve), signal);
  shortcut("o", "take them out of service", press(suppress), signal);
  shortcut("i", "put them into service", press(unsuppress), signal);
  shortcut("c", "comment", press(comment), signal);
  body.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    const next = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling }[event.key];
    if (!next) return;
    event.preventDefault();
    next.querySelector(".opener").focus();
  });
  side.addEventListener("keydown", (event) => event.key === "Escape" && show(null));
  let timer = 0;
  signal.addEventListener("abort", () => clearTimeout(timer));
  follow(["plant"], signal, draw);
  follow(["alarms"], signal, () => {
    timer ||= setTimeout(() => {
      timer = 0;
      draw();
    }, REDRAW_MS);
  });
  draw();
}

function byUrgency(one, other) {
  return (
    Number(other.waiting) - Number(one.waiting) ||
    PRIORITIES.indexOf(one.priority) - PRIORITIES.indexOf(other.priority) ||
    (other.raised_ms ?? 0) - (one.raised_ms ?? 0)
  );
}

const byEnd = (one, other) => (other.over_ms ?? 0) - (one.over_ms ?? 0);
