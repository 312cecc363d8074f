// Whether images have changed since the calibration.

import { ask, at, element, percent } from "./shared.js";

export async function lookForDrift() {
  const found = await ask("drift").catch(() => null);
  if (!found) return;
  at("drift").hidden = !found.alarm;
  at("drift-summary").textContent = found.summary;
  const loud = found.tests.filter((one) => one.since);
  at("drift-tests").replaceChildren(...loud.map((one) => element("li", "", inWords(one))));
  const chance = percent(found.false_alarms, 0);
  at("drift-quiet").textContent = found.alarm ? "" : `${found.summary} ${found.cases} different `
    + `images were tested; false alarms in the life of a policy: at most ${chance}.`;
  if (!found.complete) setTimeout(lookForDrift, 100);
}

function inWords(test) {
  const since = new Date(test.since).toLocaleString();
  const evidence = test.highest > 1e6 ? "over a million" : Math.round(test.highest);
  return `${test.sentence} Alarm since ${since} (evidence ${evidence} to 1).`;
}
