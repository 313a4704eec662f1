/** The data page: what comes in, how far it is processed, and what could not be used, with one example each. */

import { element, facts, panel, table, time } from "../core/dom.js";
import { count, exact, value } from "../core/format.js";
import { machineAddress } from "../core/router.js";
import { keepLoading } from "./loading.js";

export function dataPage(main, signal) {
  document.title = "Data – Faultline";
  const body = element("div", { class: "stack" });
  main.append(element("div", { class: "title-row" }, element("h1", {}, "Data")), body);
  keepLoading("/api/data", signal, body, (data) => [
    sources(data),
    letters("Dead letters", "Records that could not be used", data.dead_letters),
    letters("Late records", "Records that came after their frame had closed", data.late),
    topics(data),
  ]);
}

function sources(data) {
  const columns = [
    ["Topic", ""],
    ["Holds", ""],
    ["Records per second", "number"],
    ["Not processed", "number"],
    ["Late", "number"],
    ["Dead letters", "number"],
    ["Machines", "number"],
    ["Silent", "number"],
  ];
  const rows = data.sources.map((one) => [
    element("span", {}, one.topic, one.exists ? "" : element("strong", {}, " does not exist")),
    [one.holds, one.machine_types.length ? element("div", { class: "id" }, one.machine_types.join(", ")) : ""],
    one.records_per_second === null ? "–" : value(one.records_per_second),
    one.lag === null ? "–" : count(one.lag),
    one.late === null ? "–" : count(one.late),
    one.dead_letters === null ? "–" : count(one.dead_letters),
    one.machine_types.length ? count(one.machines) : "–",
    one.machine_types.length ? (one.silent_machines ? element("strong", {}, count(one.silent_machines)) : "0") : "–",
  ]);
  return panel("Sources", table(columns, rows, "Sources"));
}

function letters(title, about, { total, foreign, reasons }) {
  const said =
    total === 0
      ? "There are none."
      : `${about}: ${count(total)} since reading began${foreign ? `, ${count(foreign)} of other plants` : ""}.`;
  return panel(title, element("p", { class: "muted" }, said), ...reasons.map(reason));
}

function reason(one) {
  const topics = Object.entries(one.topics)
    .map(([topic, number]) => `${topic} ${count(number)}`)
    .join(", ");
  return element(
    "details",
    { class: "reason" },
    element(
      "summary",
      {},
      element("strong", {}, one.title),
      element("span", { class: "id" }, ` ${one.reason} `),
      element("span", { class: "counted" }, count(one.count)),
      element("span", { class: "muted" }, ` ${topics}`),
    ),
    one.meaning ? element("p", { class: "muted" }, one.meaning) : null,
    one.example ? example(one.example) : null,
  );
}

function example(one) {
  const place = (topic, partition, offset) =>
    topic === null ? null : `${topic}, partition ${partition}, offset ${offset}`;
  const size =
    one.value_bytes > one.value.length
      ? element("div", { class: "muted" }, `The beginning of ${count(one.value_bytes)} bytes`)
      : null;
  return facts([
    ["What", one.detail],
    ["Machine or key", one.key ? element("a", { href: machineAddress(one.key) }, one.key) : null],
    ["Written to", place(one.topic, one.partition, one.offset)],
    ["Came from", place(one.origin_topic, one.origin_partition, one.origin_offset)],
    ["When", one.timestamp_ms === null ? null : exact(one.timestamp_ms)],
    ["Replayed", one.replays ? `${one.replays} times` : null],
    ["Value", [element("pre", {}, one.value), size]],
  ]);
}

function topics(data) {
  const rows = data.topics.map((one) => [
    one.topic,
    count(one.records),
    time(one.newest_ms),
    count(one.behind),
    one.unreadable ? element("strong", {}, count(one.unreadable)) : "0",
  ]);
  const columns = [
    ["Topic", ""],
    ["Records", "number"],
    ["Newest", ""],
    ["Behind", "number"],
    ["Unreadable", "number"],
  ];
  return panel(
    "What this console has read",
    data.since_ms === null || data.since_ms > data.read_ms
      ? null
      : element("p", { class: "muted" }, `Diagnoses since ${exact(data.since_ms)}.`),
    table(columns, rows, "Topics"),
  );
}
