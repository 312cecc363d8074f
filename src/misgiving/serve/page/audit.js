// What blind audits say of the accepted answers.

import { ask } from "./api.js";
import { at, atMost, element, say } from "./dom.js";
import { lookForWrong } from "./found_wrong.js";
import { isReader, state } from "./state.js";

let announced = false;

export async function lookForAudit() {
  lookForWrong();
  if (!state.model?.audits) return;
  const found = await ask("audit").catch(() => null);
  if (!found) return;
  at("audit").hidden = found.audited == null; // the key of a reviewer does not get the numbers
  if (!at("audit").hidden) {
    [at("audit-now").textContent] = found.summary;
    at("audit-levels").textContent = found.summary.slice(1).join(" ");
  }
  at("audit-alarm").hidden = !found.alarm;
  at("audit-alarm-now").textContent = found.after_alarm === "defer" ? "every image is deferred" : "do not rely on them";
  at("audit-alarm-says").textContent = alarmOf(found);
  at("audit-alarm-steps").replaceChildren(
    ...(isReader() ? [] : found.next_steps).map((step) => element("li", "", // every other part is code
      ...step.split("`").map((text, number) => (number % 2 ? element("code", "", text) : text)))));
  if (found.alarm && !announced) say(alarmOf(found));
  announced = found.alarm;
}

function alarmOf({ alarm_since: since, target, after_alarm: after }) {
  const follows = after === "defer" ? "Every image is deferred now." : "Do not rely on accepted answers.";
  return `The audits show more errors than the target, ${atMost(target)}, since `
    + `${new Date(since).toLocaleString()}. ${follows}`;
}
