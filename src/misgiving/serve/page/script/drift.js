// Whether images have changed since the calibration.

import { ask, at, atMost, element, say } from "./shared.js";

let announced = false;

export async function lookForDrift() {
  const found = await ask("drift").catch(() => null);
  if (!found) return;
  at("drift").hidden = !found.alarm;
  at("drift-summary").textContent = found.summary;
  announce(found);
  const loud = found.tests.filter((one) => one.since);
  at("drift-tests").replaceChildren(...loud.map((one) => element("li", "", inWords(one))));
  const chance = atMost(found.false_alarms, 0);
  at("drift-quiet").textContent = found.alarm ? "" : `${found.summary} ${found.cases} different `
    + `images were tested; false alarms in the life of a policy: at most ${chance}.`;
  if (!found.complete) setTimeout(lookForDrift, 100);
}

// A banner that appears is not read out by itself, and would be at every look.
function announce({ alarm, summary }) {
  if (alarm && !announced) say(summary);
  announced = alarm;
}

function inWords(test) {
  const since = new Date(test.since).toLocaleString();
  const evidence = test.highest > 1e6 ? "over a million" : Math.round(test.highest);
  const now = test.sentence === test.alarmed_with ? "" : ` Now: ${test.sentence}`;
  return `${test.alarmed_with} Alarm since ${since} (evidence ${evidence} to 1).${now}`;
}
