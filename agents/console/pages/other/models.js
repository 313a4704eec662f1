/** The models page: which models diagnose which machines, how right they are where labels come, and what drifts. */

import { element, facts, panel, svg, table, time } from "../core/dom.js";
import { count, percent } from "../core/format.js";
import { hasEnded } from "../core/live.js";
import { machineAddress } from "../core/router.js";
import { TimeAxis } from "../chart/axis.js";
import { trendLane } from "../chart/trend.js";
import { keepLoading } from "./loading.js";

export function modelsPage(main, signal) {
  document.title = "Models – Faultline";
  const body = element("div", { class: "stack" });
  main.append(element("div", { class: "title-row" }, element("h1", {}, "Models")), body);
  keepLoading("/api/models", signal, body, (document) => [
    ...(document.models.length
      ? document.models.map(model)
      : [panel("Models", element("p", { class: "empty" }, "No diagnosis has been read yet."))]),
    drift(document.drift),
    labels(document.labels),
  ]);
}

const known = (number, shown) => (number === null || number === undefined ? null : shown(number));
const decimals = (number) => number.toFixed(2);
const nats = (number) => `${number.toFixed(2)} nats`;

function model(one) {
  const weights = Object.entries(one.weights_mean ?? {})
    .map(([name, weight]) => `${name} ${percent(weight)}`)
    .join(", ");
  const scores = one.scores ?? {};
  const kind = one.kind === "area" ? "Area model" : "Model";
  return panel(
    `${kind} ${one.name}`,
    element("p", { class: "id" }, one.hash),
    element(
      "div",
      { class: "columns halves" },
      facts([
        [
          "Machines",
          one.kind === "area"
            ? null
            : `${count(one.machines)}${one.machine_types.length ? ` of type ${one.machine_types.join(", ")}` : ""}`,
        ],
        [
          "Diagnoses",
          one.diagnoses ? count(one.diagnoses) : "not counted yet: an interval of metrics has to end first",
        ],
        ["Without evidence", one.no_evidence ? count(one.no_evidence) : null],
        ["Mean confidence", known(one.confidence_mean, percent)],
        ["Mean entropy", known(one.entropy_mean, nats)],
        ["Mean disagreement", known(one.disagreement_mean, nats)],
        ["Mean weights", weights],
        ["Newest", time(one.newest_ms)],
      ]),
      one.labelled
        ? facts([
            ["Labelled frames", count(one.labelled)],
            ["Accuracy", known(scores.accuracy, percent)],
            ["Macro-F1", known(scores.macro_f1, decimals)],
            ["Adjusted Rand index", known(scores.ari, decimals)],
            ["Mutual information", known(scores.mutual_information, nats)],
            ["Coverage of candidates", known(scores.candidates_coverage, percent)],
          ])
        : element(
            "p",
            { class: "muted" },
            one.diagnoses
              ? "There are no labels of this time, so nobody knows how right it was."
              : "Scores come when an interval of metrics has ended, where there are labels of it.",
          ),
    ),
    one.intervals.length > 1 ? history(one.intervals) : null,
  );
}

function history(intervals) {
  const width = 720;
  const axis = new TimeAxis(intervals[0].start_ms, intervals.at(-1).end_ms, 58, width);
  const lane = (title, of) => {
    const points = intervals.map((one) => [one.end_ms, of(one)]);
    if (points.every(([, at]) => at === null)) return null;
    const made = trendLane({ title, points, range: [0, 1], shown: percent });
    return element(
      "div",
      { class: "lane" },
      element("div", { class: "lane-head" }, element("span", { class: "lane-title" }, title)),
      svg(
        "svg",
        { viewBox: `0 0 ${width} ${made.height}`, role: "img", "aria-label": `${title} over time` },
        made.draw(axis),
      ),
    );
  };
  const scale = svg("svg", { viewBox: `0 0 ${width} 16`, "aria-hidden": "true" }, axis.labels());
  return element(
    "div",
    { class: "stack-chart still" },
    lane("Mean confidence", (one) => one.confidence_mean),
    lane("Accuracy", (one) => one.accuracy),
    scale,
  );
}

function drift(entries) {
  if (!entries.length) return panel("Drift", element("p", { class: "muted" }, "No machine drifts."));
  const rows = entries.map((one) => [
    element("a", { href: machineAddress(one.machine) }, one.name),
    [one.kind_title, one.variable_title ?? ""].filter(Boolean).join(": "),
    `${one.direction} by ${one.size}`,
    time(one.since_ms),
    one.ended_ms === null ? element("strong", {}, "now") : time(one.ended_ms),
  ]);
  return panel(
    "Drift",
    table(
      [
        ["Machine", ""],
        ["What", ""],
        ["How", ""],
        ["Since", ""],
        ["Until", ""],
      ],
      rows,
      "Drift",
    ),
  );
}

function labels({ count: number, newest }) {
  if (!number)
    return panel(
      "What people found",
      element(
        "p",
        { class: "muted" },
        "Nobody has said yet what machines really had. Feedback on a machine's page does.",
      ),
    );
  const rows = newest.map((one) => [
    element("a", { href: machineAddress(one.machine) }, one.name),
    [one.fault_title ?? one.fault, one.note ? element("div", { class: "muted quote" }, one.note) : ""],
    time(one.start_ms),
    hasEnded(one.end_ms) ? time(one.end_ms) : "still there",
    one.by ?? "",
  ]);
  return panel(
    "What people found",
    element("p", { class: "muted" }, `${count(number)} labels`),
    table(
      [
        ["Machine", ""],
        ["What", ""],
        ["From", ""],
        ["Until", ""],
        ["By", ""],
      ],
      rows,
      "Labels",
    ),
  );
}
