// The banner for images that have changed since the calibration.

import { ask } from "./api.js";
import { at, atMost, element, say } from "./dom.js";
import { isReader } from "./state.js";

let announced = false;

export async function lookForDrift() {
  if (isReader()) return; // their keys do not open it
  const found = await ask("drift").catch(() => null);
  if (!found) return;
  at("drift").hidden = !found.alarm;
  at("drift-summary").textContent = found.summary;
  // Screen readers do not read a banner that appears; it is announced once.
  if (found.alarm && !announced) say(found.summary);
  announced = found.alarm;
  const alarms = found.tests.filter((one) => one.since);
  at("drift-tests").replaceChildren(...alarms.map((one) => element("li", "", describe(one))));
  at("drift-quiet").textContent = found.alarm ? "" : `${found.summary} ${found.cases} images tested; `
    + `probability of a false alarm: at most ${atMost(found.false_alarms, 0)}.`;
  at("expected").textContent = found.expected;
  if (!found.complete) setTimeout(lookForDrift, 2000);
}

function describe(test) {
  const since = new Date(test.since).toLocaleString();
  const evidence = test.highest > 1e6 ? "over a million" : Math.round(test.highest);
  const now = test.sentence === test.alarmed_with ? "" : ` Now: ${test.sentence}`;
  return `${test.alarmed_with} Alarm since ${since} (evidence ${evidence} to 1).${now}`;
}
