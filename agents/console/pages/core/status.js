/** The clock and the bar below the header: whether what is shown is live, and of when it is. */

import { setText } from "./dom.js";
import { clockWithSeconds, count, dayAndClock, duration, exact, zoneName } from "./format.js";
import { follow, live } from "./live.js";

const SECOND_MS = 1_000;
const PATIENCE_MS = 5_000;

/** Keeps both up to date from now on. */
export function showStatus() {
  follow(["status", "plant", "machines", "alarms"], undefined, draw);
  setInterval(draw, SECOND_MS);
  const head = document.querySelector(".head");
  const measure = () => document.documentElement.style.setProperty("--head-height", `${head.offsetHeight}px`);
  new ResizeObserver(measure).observe(head);
}

function draw() {
  const { status, connected } = live;
  const trouble = problem(status, connected);
  const frozen = trouble !== null && trouble.frozen;
  document.body.classList.toggle("not-live", frozen);
  const bar = document.getElementById("connection");
  bar.hidden = trouble === null;
  setText(bar, trouble?.text ?? "");
  const box = document.getElementById("clock");
  box.dataset.live = frozen || status === null ? "no" : "yes";
  const read = status?.read_ms ?? null;
  setText(
    document.getElementById("clock-time"),
    read === null
      ? "--:--:--"
      : `${dayAndClock(read).replace(/ \S+$/, "")} ${clockWithSeconds(read)} ${zoneName(read)}`,
  );
  box.title = read === null ? "" : `Plant time ${exact(read)}: the newest frame that has been read`;
  setText(document.getElementById("clock-beat"), beat(status, connected, frozen));
  const waiting = live.counts?.unacknowledged ?? 0;
  const badge = document.getElementById("waiting-count");
  badge.hidden = waiting === 0;
  setText(badge, count(waiting));
  badge.title = `${count(waiting)} alarms wait for acknowledgement`;
}

function beat(status, connected, frozen) {
  if (status === null) return "connecting";
  if (frozen) return "not live";
  if (status.frozen) return "replay is over";
  if (!status.caught_up) return `reading, ${count(status.behind)} behind`;
  return "plant time, live";
}

/** What is wrong with the picture, in words; `frozen` if it does not move. */
function problem(status, connected) {
  if (document.body.dataset.page === "login") return null;
  if (!connected) {
    if (live.heardWallMs === null || (status === null && Date.now() - live.heardWallMs < PATIENCE_MS)) return null;
    const since = duration(Date.now() - live.heardWallMs);
    return {
      frozen: true,
      text: `No connection to the console for ${since}. ${status === null ? "" : "This is how it was then, not how it is now. "}It is being tried again.`,
    };
  }
  const away = status?.away_since_wall_ms ?? null;
  if (away !== null || status?.connected === false) {
    const since = away === null ? "" : ` since ${clockWithSeconds(away)} (${duration(Date.now() - away)})`;
    return {
      frozen: true,
      text: `The broker cannot be reached${since}. This is how it was then, not how it is now. ${status.why ?? ""}`,
    };
  }
  if (status?.frozen) return { frozen: false, text: "The replay is over: this is its last picture." };
  return null;
}
