/** Times, durations and numbers as people read them; times are in one zone, which is named. */

let zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
let formats = {};

/** The zone of the plant, if the server names one; otherwise the browser's holds. */
export function useZone(name) {
  if (!name || name === zone) return;
  zone = name;
  formats = {};
}

function format(name, options) {
  formats[name] ??= new Intl.DateTimeFormat("en-GB", { timeZone: zone, hourCycle: "h23", ...options });
  return formats[name];
}

const CLOCK = { hour: "2-digit", minute: "2-digit" };
const DAY = { day: "numeric", month: "short" };

/** Such as `CET`, of a moment: summer time has another name. */
export function zoneName(ms) {
  const parts = format("zone", { timeZoneName: "short" }).formatToParts(ms ?? 0);
  return parts.find((part) => part.type === "timeZoneName")?.value ?? zone;
}

/** Such as `14:05`. */
export const clock = (ms) => format("clock", CLOCK).format(ms);

/** Such as `14:05:10`. */
export const clockWithSeconds = (ms) => format("seconds", { ...CLOCK, second: "2-digit" }).format(ms);

/** Such as `20 Nov 14:05`. */
export const dayAndClock = (ms) => `${format("day", DAY).format(ms)} ${clock(ms)}`;

/** Such as `20 Nov 2025, 14:05:10 CET`. */
export const exact = (ms) =>
  `${format("date", { ...DAY, year: "numeric" }).format(ms)}, ${clockWithSeconds(ms)} ${zoneName(ms)}`;

/** A moment as short as is clear beside another one: without the day if that is the same. */
export function moment(ms, beside) {
  const day = format("date", { ...DAY, year: "numeric" });
  return beside !== null && beside !== undefined && day.format(ms) === day.format(beside) ? clock(ms) : dayAndClock(ms);
}

const UNITS = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["min", 60_000],
  ["s", 1_000],
];

/** Such as `2 h 5 min`: two units at most. */
export function duration(ms) {
  if (!(ms >= 1_000)) return "0 s";
  const first = UNITS.findIndex(([, size]) => ms >= size);
  const [unit, size] = UNITS[first];
  const whole = Math.floor(ms / size);
  const next = UNITS[first + 1];
  const rest = next && whole < 10 ? Math.floor((ms - whole * size) / next[1]) : 0;
  return rest ? `${whole} ${unit} ${rest} ${next[0]}` : `${whole} ${unit}`;
}

/** Such as `97 %`; what is not quite certain is not shown as certain. */
export function percent(share) {
  if (share === null || share === undefined) return "";
  if (share > 0.99 && share < 1) return ">99 %";
  if (share > 0 && share < 0.01) return "<1 %";
  return `${Math.round(share * 100)} %`;
}

/** A measured value with four digits that count. */
export function value(number) {
  if (number === null || number === undefined || !Number.isFinite(number)) return "–";
  const size = Math.abs(number);
  return size >= 1_000 && size < 1e7 ? number.toFixed(0) : String(Number(number.toPrecision(4)));
}

/** A count with separators between thousands. */
export const count = (number) => new Intl.NumberFormat("en-GB").format(number);

/** What a form's local time field holds for a moment, in the zone of all times on the page. */
export function fieldTime(ms) {
  const parts = Object.fromEntries(
    format("field", { year: "numeric", month: "2-digit", day: "2-digit", ...CLOCK })
      .formatToParts(ms)
      .map((p) => [p.type, p.value]),
  );
  return `${parts.year}-${parts.month}-${parts.day}T${parts.hour}:${parts.minute}`;
}

/** The moment that a local time field names, in the same zone; NaN if it is empty. */
export function momentOfField(text) {
  const asUtc = Date.parse(`${text}Z`);
  if (Number.isNaN(asUtc)) return NaN;
  // Twice, as the offset may change between the guess and the moment.
  let guess = asUtc;
  for (let round = 0; round < 2; round += 1) guess = asUtc - (Date.parse(`${fieldTime(guess)}Z`) - guess);
  return guess;
}

/** How far the zone is ahead of UTC at a moment, in milliseconds. */
export const zoneOffset = (ms) => Date.parse(`${fieldTime(ms)}Z`) - Math.floor(ms / 60_000) * 60_000;
