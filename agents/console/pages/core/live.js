/** The plant as last heard: follows the server's events, and knows when they have stopped. */

import { begin, goToLogin } from "./session.js";

const DEAD_AFTER_MS = 15_000;
const REFUSED_AGAIN_MS = 3_000;
const CHECK_MS = 1_000;

/** Events: `plant` (everything is new), `machines`, `areas`, `alarms` and `status`, each with what has changed. */
class Live extends EventTarget {
  machines = new Map();
  areas = new Map();
  alarms = new Map();
  /** Machines by state and active alarms by priority. */
  counts = null;
  /** Of alarms: floods, chatter and so on. */
  counters = null;
  /** How far the console has read, and whether the broker is there. */
  status = null;
  /** Whether events come; false also before the first snapshot. */
  connected = false;
  #source = null;
  #heardAt = performance.now();
  #heardWallMs = null;
  #startedWallMs = null;
  #stopped = false;

  start() {
    this.#startedWallMs = Date.now();
    this.#open();
    setInterval(() => this.#check(), CHECK_MS);
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#close() : this.#open()));
  }

  /** Wall time of the browser at which the server was last heard, or at which this page began to listen; null before that. */
  get heardWallMs() {
    return this.#heardWallMs ?? this.#startedWallMs;
  }

  /** Ends for good, such as before somebody logs out. */
  stop() {
    this.#stopped = true;
    this.#close();
  }

  #open() {
    this.#close();
    if (this.#stopped) return;
    this.#heardAt = performance.now();
    const source = new EventSource("/api/updates");
    this.#source = source;
    const on = (name, act) =>
      source.addEventListener(name, (event) => {
        this.#heard();
        act(JSON.parse(event.data));
      });
    on("snapshot", ({ plant, alarms, status }) => {
      this.machines = new Map(plant.machines.map((tile) => [tile.id, tile]));
      this.areas = new Map(plant.areas.map((area) => [area.id, area]));
      this.alarms = new Map([...alarms.active, ...alarms.recent].map((alarm) => [alarm.key, alarm]));
      this.counts = plant.counts;
      this.counters = alarms.counters;
      this.status = status;
      this.#setConnected(true);
      this.#tell("plant");
      this.#tell("status");
    });
    on("machines", ({ machines, removed, counts }) => {
      for (const tile of machines) this.machines.set(tile.id, tile);
      for (const id of removed) this.machines.delete(id);
      this.counts = counts;
      this.#tell("machines", { changed: machines, removed });
    });
    on("areas", ({ areas }) => {
      for (const area of areas) this.areas.set(area.id, area);
      this.#tell("areas", areas);
    });
    on("alarms", ({ alarms, removed, counters }) => {
      const known = alarms.map((alarm) => this.alarms.get(alarm.key));
      for (const alarm of alarms) this.alarms.set(alarm.key, alarm);
      for (const key of removed) this.alarms.delete(key);
      this.counters = counters;
      this.#tell("alarms", { changed: alarms, before: known, removed });
    });
    on("status", (status) => {
      this.status = status;
      this.#tell("status");
    });
    on("reload", () => this.#open());
    on("bye", () => goToLogin());
    source.addEventListener("error", () => {
      this.#setConnected(false);
      if (source.readyState === EventSource.CLOSED) this.#refused();
    });
  }

  #close() {
    this.#source?.close();
    this.#source = null;
  }

  #heard() {
    this.#heardAt = performance.now();
    this.#heardWallMs = Date.now();
    // Only a snapshot makes the picture whole again; after it, any event shows that it still moves.
    if (this.status !== null && this.#source?.readyState === EventSource.OPEN) this.#setConnected(true);
  }

  /** The server answers, but not with events: perhaps because the session is over. */
  async #refused() {
    try {
      if ((await begin({ again: true })).login) goToLogin();
    } catch {
      // It does not answer at all, which the bar says already.
    }
  }

  #check() {
    if (document.hidden || this.#stopped) return;
    const patience = this.#source?.readyState === EventSource.CLOSED ? REFUSED_AGAIN_MS : DEAD_AFTER_MS;
    if (performance.now() - this.#heardAt < patience) return;
    this.#setConnected(false);
    this.#open();
  }

  #setConnected(connected) {
    if (connected === this.connected) return;
    this.connected = connected;
    this.#tell("status");
  }

  #tell(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

export const live = new Live();

/** Listens until the signal ends it, which a page does when another one is shown. */
export function follow(names, signal, listener) {
  for (const name of names) live.addEventListener(name, (event) => listener(event.detail, name), { signal });
}

/** Whether something is over in plant time; a label may have an end that has not come yet. */
export function hasEnded(endMs) {
  return endMs !== null && endMs <= (live.status?.read_ms ?? Infinity);
}
