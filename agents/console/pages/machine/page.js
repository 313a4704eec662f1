/** The machine page: what it has and why, trends with their normal bands, texts, each modality's answer, and alarms. */

import { acknowledge, comment, shelve, suppress } from "../core/actions.js";
import { element, fillIfChanged } from "../core/dom.js";
import { shortcut } from "../core/keys.js";
import { follow, live } from "../core/live.js";
import { message } from "../core/messages.js";
import { get, known } from "../core/session.js";
import { patterns } from "../chart/colours.js";
import { Stack } from "../chart/stack.js";
import { alarmsPanel, driftPanel, labelsPanel } from "./records.js";
import { feedback } from "./feedback.js";
import { Head } from "./head.js";
import { lanesOf, legend, wordsOf } from "./lanes.js";
import { newestPanel } from "./newest.js";
import { SpanChooser } from "./span.js";
import { TextsPanel } from "./texts.js";
import { chooseVariables } from "./variables.js";
import { WhyPanel } from "./why.js";

const AGAIN_MS = 4_000;
const READING_MS = 400;
/** The server reads a machine again after two seconds, and then shows a label that somebody has just given. */
const SOON_MS = 2_200;

export function machinePage(main, signal, [machine]) {
  document.title = `${machine} – Faultline`;
  let shown = null;
  let requested = [];
  let timer = 0;
  let loading = null;

  const head = new Head(machine, giveFeedback);
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const note = element("p", { class: "muted" });
  const stack = new Stack((ms) => why.at(frameAt(ms)), signal);
  const span = new SpanChooser(() => load());
  const why = new WhyPanel(signal);
  const key = element("div", { class: "legend" });
  const textsView = new TextsPanel((ms) => stack.cursor(ms));
  const side = element("div", { class: "stack" });
  const records = element("div", { class: "stack" });
  const variables = element("button", { type: "button", onclick: () => pickVariables() }, "Variables …");
  const charts = element(
    "section",
    { class: "panel", "aria-label": "Over time" },
    element("div", { class: "title-row" }, element("h2", {}, "Over time"), span.bar, variables),
    note,
    stack.root,
    key,
    patterns(),
  );
  const body = element(
    "div",
    { class: "columns" },
    element("div", { class: "stack" }, charts, textsView.root),
    element("div", { class: "stack" }, side, why.root, records),
  );
  main.append(head.root, problem, body);

  const drawHead = () => {
    head.draw(live.machines.get(machine), openAlarms(), shown);
  };

  async function load() {
    clearTimeout(timer);
    loading?.abort();
    const request = new AbortController();
    loading = request;
    try {
      const document = await get(addressOf(machine, span.query(shown), requested), request.signal);
      if (signal.aborted || request !== loading) return;
      problem.hidden = true;
      body.hidden = false;
      draw(document);
      timer = setTimeout(load, document.reading.complete ? (span.isLive ? AGAIN_MS : 60_000) : READING_MS);
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted || request !== loading) return;
      problem.textContent = error.message;
      problem.hidden = false;
      body.hidden = error.status === 404;
      timer = setTimeout(load, AGAIN_MS);
    }
  }

  function draw(document) {
    shown = document;
    span.show(document);
    note.textContent = noteOf(document);
    const lanes = lanesOf(document, (text) => textsView.mark(text));
    stack.set(lanes, { fromMs: document.from_ms, untilMs: document.until_ms, stepMs: document.frame_period_ms });
    key.replaceChildren(...legend(document));
    textsView.draw(document.texts);
    fillIfChanged(side, [document.newest, document.newest_ms, document.faults], () => newestPanel(document));
    const recorded = [document.alarms.history, document.drift, document.labels];
    fillIfChanged(records, recorded, () => [alarmsPanel(document), driftPanel(document), labelsPanel(document)]);
    why.newest(document.newest, wordsOf(document));
    drawHead();
  }

  /** The id and end of the frame in which a moment lies, the newest one if it is not diagnosed yet; or null. */
  function frameAt(ms) {
    if (ms === null || !shown?.frames.id.length) return null;
    const { id: ids, end_ms: ends } = shown.frames;
    const found = ends.findIndex((end) => end >= ms);
    const row = found < 0 ? ends.length - 1 : found;
    return { id: ids[row], endMs: ends[row] };
  }

  async function pickVariables() {
    if (shown === null) return;
    const chosen = await chooseVariables(shown, requested);
    if (chosen === null) return;
    requested = chosen;
    load();
  }

  function giveFeedback() {
    if (known().read_only) message("This console is read-only.", true);
    else if (shown !== null)
      feedback(machine, shown, frameAt(stack.cursorMs), live.machines.get(machine), () => setTimeout(load, SOON_MS));
  }

  const openAlarms = () =>
    [...live.alarms.values()].filter((alarm) => alarm.machine === machine && alarm.state !== "normal");
  const press =
    (act, which = () => true) =>
    () =>
      act(openAlarms().filter(which));
  shortcut("y", "why: what moved the answer", () => why.ask(), signal);
  shortcut("f", "feedback: what it really was", giveFeedback, signal);
  shortcut(
    "a",
    "acknowledge the machine's alarms",
    press(acknowledge, (alarm) => alarm.waiting),
    signal,
  );
  shortcut("s", "shelve them", press(shelve), signal);
  shortcut("o", "take them out of service", press(suppress), signal);
  shortcut("c", "comment", press(comment), signal);
  shortcut("v", "choose variables", () => pickVariables(), signal);
  shortcut("[", "earlier", () => span.move(-1), signal);
  shortcut("]", "later", () => span.move(1), signal);
  shortcut("-", "a longer time", () => span.zoom(2), signal);
  shortcut("+", "a shorter time", () => span.zoom(0.5), signal);
  shortcut("l", "the newest frames, live", () => span.toLive(), signal);
  follow(["plant", "alarms"], signal, drawHead);
  follow(["machines"], signal, ({ changed }) => changed.some((tile) => tile.id === machine) && drawHead());
  signal.addEventListener("abort", () => {
    clearTimeout(timer);
    loading?.abort();
  });
  drawHead();
  note.append(element("span", { class: "busy" }, "Reading the machine's records"));
  load();
}

function addressOf(machine, { fromMs, untilMs }, variables) {
  const asked = new URLSearchParams();
  if (fromMs !== null) asked.set("from", String(Math.round(fromMs)));
  if (untilMs !== null) asked.set("until", String(Math.round(untilMs)));
  if (variables.length) asked.set("variables", variables.join(","));
  return `/api/machines/${encodeURIComponent(machine)}${asked.size ? `?${asked}` : ""}`;
}

function noteOf(document) {
  const parts = [];
  if (!document.reading.complete) parts.push("Still reading older records.");
  if (document.reading.said) parts.push(document.reading.said);
  if (!document.normal.same_model && document.normal.model)
    parts.push("The normal bands are of another model than the diagnoses.");
  if (document.reading.unreadable) parts.push(`${document.reading.unreadable} records could not be read.`);
  return parts.join(" ");
}
