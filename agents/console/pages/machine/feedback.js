/** The form in which people say what a machine really had; it becomes a label. */

import { openForm } from "../core/actions.js";
import { element } from "../core/dom.js";
import { exact, fieldTime, momentOfField, zoneName } from "../core/format.js";
import { message } from "../core/messages.js";
import { post } from "../core/session.js";
import { wordsOf } from "./lanes.js";

/** Opens the form; `frame` is the one under the cursor, or null for the newest. */
export function feedback(machine, shown, frame, tile, sent) {
  const words = wordsOf(shown);
  const corrected = frame?.id ?? shown.newest?.id ?? null;
  const row = shown.frames.id.indexOf(corrected);
  const said = row < 0 ? shown.newest?.fault : shown.frames.fault[row];
  const beginMs = frame?.endMs ?? tile?.since_ms ?? shown.from_ms;
  const fault = element(
    "select",
    { required: true },
    shown.label_faults.map(({ name, title }) =>
      element(
        "option",
        { value: name, selected: name === said },
        name === "normal" ? "No fault: it was normal" : (title ?? words(name)),
      ),
    ),
  );
  const zone = zoneName(beginMs);
  const from = element("input", { type: "datetime-local", required: true, value: fieldTime(beginMs) });
  const until = element("input", { type: "datetime-local" });
  const comment = element("textarea", { maxlength: 2000 });
  const corrects = frame === null || row < 0 ? "the newest diagnosis" : `the diagnosis of ${exact(frame.endMs)}`;
  openForm(
    "Feedback",
    [
      element("p", { class: "muted" }, said ? `Corrects ${corrects}: ${words(said)}.` : "There is no diagnosis yet."),
      element("label", {}, "What was it?", fault),
      element("label", {}, `From (${zone})`, from),
      element("label", {}, `Until (${zone}); empty if it is still there`, until),
      element("label", {}, "Comment", comment),
    ],
    "Send",
    async () => {
      const untilMs = momentOfField(until.value);
      const written = await post("/api/labels", {
        machine,
        fault: fault.value,
        from_ms: momentOfField(from.value),
        until_ms: Number.isNaN(untilMs) ? null : untilMs,
        corrects: corrected,
        comment: comment.value || null,
      });
      message(written.said);
      sent();
    },
  );
}
