/** How much each modality counts over time, stacked to one. */

import { svg } from "../core/dom.js";
import { percent } from "../core/format.js";

const HEIGHT = 54;
const ROOM = 30;
const MIN_WEIGHT = 0.3;

/** A lane of a chart; `ends` are the frames' ends and `layers` are {title, weights}, with null where a frame has none. */
export function weightsLane({ title, ends, layers }) {
  const lower = layers.map((_, place) =>
    ends.map((__, row) => layers.slice(0, place).reduce((sum, one) => sum + (one.weights[row] ?? 0), 0)),
  );
  return {
    title,
    note: "",
    height: HEIGHT,
    draw(axis) {
      const y = (share) => 2 + (1 - Math.min(1, share)) * (HEIGHT - 4);
      const areas = layers.map(({ weights }, place) => {
        const point = (row, share) => `${axis.x(ends[row]).toFixed(1)} ${y(share).toFixed(1)}`;
        const up = ends.map((_, row) => point(row, lower[place][row] + (weights[row] ?? 0)));
        const back = ends.map((_, row) => point(row, lower[place][row])).reverse();
        return svg("path", { class: `weight w${place % 4}`, d: ends.length ? `M${[...up, ...back].join("L")}Z` : "" });
      });
      return [...areas, ...axis.grid(HEIGHT), ...layers.flatMap((layer, place) => name(layer, place, axis, y))];
    },
    at(ms) {
      const row = ends.findLastIndex((end) => end <= ms);
      return row < 0 ? "–" : layers.map((layer) => `${layer.title} ${percent(layer.weights[row]) || "–"}`).join(", ");
    },
  };

  /** A layer's title in the middle of where the layer is wide enough for it. */
  function name({ title: text, weights }, place, axis, y) {
    const wide = [...weights.keys()].filter((row) => (weights[row] ?? 0) >= MIN_WEIGHT);
    if (!wide.length) return [];
    const middle = wide[wide.length >> 1];
    const [first, last] = [axis.x(ends[0]) + ROOM, axis.x(ends.at(-1)) - ROOM];
    if (last < first) return [];
    const x = Math.min(last, Math.max(first, axis.x(ends[middle])));
    return [
      svg(
        "text",
        { class: `on w${place % 4}`, x, y: y(lower[place][middle] + weights[middle] / 2) + 4, "text-anchor": "middle" },
        text,
      ),
    ];
  }
}
