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
    at("audit-now").textContent = describe(found);
    at("audit-levels").textContent = explain(found);
  }
  at("audit-alarm").hidden = !found.alarm;
  at("audit-alarm-now").textContent = found.after_alarm === "defer" ? "every image is deferred" : "do not rely on them";
  at("audit-alarm-says").textContent = alarmOf(found);
  at("audit-alarm-steps").replaceChildren(
    ...(isReader() ? [] : found.next_steps).map((step) => element("li", "", step)));
  if (found.alarm && !announced) say(alarmOf(found));
  announced = found.alarm;
}

const many = (count) => count.toLocaleString("en");

function describe({ audited, later, accepted, since, wrong, unconfirmed, upper, upper_if_right: least, among }) {
  if (!audited) return later ? "answers count when the older cases are answered, too" : "no audited answer yet";
  const day = new Date(since).toLocaleDateString("en-GB", { day: "numeric", month: "long" });
  const subject = among === "all" ? "cases were accepted with a wrong answer" : "accepted answers are wrong";
  return `audited ${many(audited)} of ${many(accepted)} accepted answers since ${day}: ${many(wrong)} wrong, `
    + `${many(unconfirmed)} unconfirmed; at most ${atMost(upper)} of the ${subject}`
    + (unconfirmed ? ` (${atMost(least)}, if the unconfirmed ones are right)` : "");
}

function explain({ overdue, later, third_readers: third, target, false_alarms: alone, with_drift: both }) {
  const waits = overdue ? ` ${many(overdue)} blind cases are overdue.` : "";
  const open = third ? ` ${many(third)} ${third === 1 ? "case needs" : "cases need"} a third reader: two do not settle ${third === 1 ? "it" : "them"}.` : "";
  const more = later ? ` ${many(later)} more answers count when the older cases are answered.` : "";
  return `With 95 % confidence at any time; the target is ${atMost(target)}. What is unconfirmed or overdue counts `
    + `as wrong.${waits}${open}${more} False alarms in the life of a policy: at most ${atMost(alone, 0)}, with those of the `
    + `drift tests ${atMost(both, 0)}.`;
}

function alarmOf({ alarm_since: since, target, after_alarm: after }) {
  const follows = after === "defer" ? "Every image is deferred now." : "Do not rely on accepted answers.";
  return `The audits show more errors than the target, ${atMost(target)}, since `
    + `${new Date(since).toLocaleString()}. ${follows}`;
}
