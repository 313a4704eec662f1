/** How the alarm system itself does: load, floods, chatter, standing alarms, time to acknowledgement. */

import { element } from "../core/dom.js";
import { count, duration } from "../core/format.js";

export function counterTiles(counters) {
  const seconds = (number) => (number === null || number === undefined ? "–" : duration(number * 1_000));
  const chattering = counters.chattering
    .map((one) => `${one.name}: ${one.alarm_title} (${one.times} times)`)
    .join("\n");
  const tiles = [
    [
      "To acknowledge",
      count(counters.waiting),
      counters.longest_waiting_seconds ? `longest for ${seconds(counters.longest_waiting_seconds)}` : "",
      counters.waiting > 0,
    ],
    [
      "Active",
      count(counters.active),
      `${count(counters.shelved)} shelved, ${count(counters.out_of_service)} out of service`,
    ],
    ["Last ten minutes", count(counters.last_ten_minutes), counters.flood ? "alarm flood" : "no flood", counters.flood],
    ["Raised in 24 h", count(counters.raised), `${count(counters.floods)} floods`],
    ["Chattering", count(counters.chatter), "three times within an hour", counters.chattering.length > 0, chattering],
    ["Standing", count(counters.standing), "for more than a day", counters.standing > 0],
    [
      "Time to acknowledge",
      seconds(counters.acknowledge_median_seconds),
      `median of ${count(counters.acknowledged)}, slowest ${seconds(counters.acknowledge_slowest_seconds)}`,
    ],
  ];
  return tiles.map(([title, number, more, abnormal, hint]) =>
    element(
      "div",
      { class: abnormal ? "counter abnormal" : "counter", title: hint || null },
      element("div", { class: "muted" }, title),
      element("strong", {}, number),
      element("div", { class: "muted more" }, more),
    ),
  );
}
