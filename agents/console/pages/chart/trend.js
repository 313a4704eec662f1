/** A variable over time with its normal band; what is outside of the band is drawn stronger. */

import { svg } from "../core/dom.js";
import { value } from "../core/format.js";

const HEIGHT = 72;
const PAD = 6;
let made = 0;

/** A lane of a chart. `points` are [ms, value or null], a null being a hole; `band` is {low, high} or null; `steps` where a
 * value holds until the next one. */
export function trendLane({
  title,
  unit = "",
  points,
  band = null,
  range = null,
  note = "",
  steps = false,
  height = HEIGHT,
  shown = value,
}) {
  const measured = points.filter((point) => point[1] !== null);
  const [low, high] = range ?? span(measured, band);
  const suffix = unit ? ` ${unit}` : "";
  return {
    title,
    note,
    height,
    draw(axis) {
      const y = (at) => PAD + (1 - (at - low) / (high - low)) * (height - 2 * PAD);
      const path = line(points, axis, y, steps);
      const parts = [...axis.grid(height)];
      if (band) parts.push(...bandOf(band, axis, y), ...outside(band, axis, y, path, height));
      parts.push(svg("path", { class: "trend", d: path }));
      parts.push(label(axis, y(high), shown(high)), label(axis, y(low), shown(low)));
      return parts;
    },
    at(ms) {
      const point = nearest(measured, ms);
      return point ? `${shown(point[1])}${suffix}` : "–";
    },
  };
}

function span(points, band) {
  let low = band ? band.low : Infinity;
  let high = band ? band.high : -Infinity;
  for (const [, at] of points) {
    if (at < low) low = at;
    if (at > high) high = at;
  }
  if (low > high) return [0, 1];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.01 || 1;
  return [low - room, high + room];
}

function line(points, axis, y, steps) {
  let path = "";
  let open = false;
  for (const [ms, at] of points) {
    if (at === null) {
      open = false;
      continue;
    }
    const x = axis.x(ms).toFixed(1);
    if (open && steps) path += `H${x}`;
    path += `${open ? "L" : "M"}${x} ${y(at).toFixed(1)}`;
    open = true;
  }
  return path;
}

function bandOf(band, axis, y) {
  const top = y(band.high);
  return [
    svg("rect", {
      class: "band",
      x: axis.left,
      width: axis.right - axis.left,
      y: top,
      height: Math.max(1, y(band.low) - top),
    }),
  ];
}

function outside(band, axis, y, path, height) {
  made += 1;
  const id = `outside-${made}`;
  const wide = { x: axis.left - 2, width: axis.right - axis.left + 4 };
  const clip = svg(
    "clipPath",
    { id },
    svg("rect", { ...wide, y: -9, height: Math.max(0, y(band.high) + 9) }),
    svg("rect", { ...wide, y: y(band.low), height: Math.max(0, height + 9 - y(band.low)) }),
  );
  return [clip, svg("path", { class: "trend outside", d: path, "clip-path": `url(#${id})` })];
}

const label = (axis, y, text) => svg("text", { x: axis.left - 6, y: y + 4, "text-anchor": "end" }, text);

/** The last entry that is not after a moment. */
export function nearest(points, ms) {
  let low = 0;
  let high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= ms) low = middle + 1;
    else high = middle;
  }
  return points[low - 1] ?? null;
}
