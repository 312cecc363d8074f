// Which cases the page has: the service says which fit the filters, and which of them come first.

import { OUTCOMES, ask, complain, state, take } from "./shared.js";
import { refresh } from "./worklist.js";

const MOST = 5000; // cases that are loaded; the CSV has all
const AT_ONCE = 500; // cases of one answer, at most

const LOW = 50; // cases that remain to be reviewed when more are loaded

let asked = ""; // what the list was last loaded for
let loads = 0;

// The first cases that fit. Where another load begins before this one ends, this one is given up.
export async function loadCases() {
  const mine = ++loads, before = [...state.cases.keys()], found = new Set();
  const wanted = queries();
  asked = String(wanted);
  let fitting = 0;
  for (const query of wanted) {
    const total = await load(query, found, () => mine === loads);
    if (mine !== loads) return;
    fitting += total;
  }
  state.rest = Math.max(0, fitting - found.size);
  for (const id of before) { // what came while it was loaded stays
    if (!found.has(id) && id !== state.selected) state.cases.delete(id);
  }
  refresh();
}

async function load(query, found, goesOn) {
  let page = { cursor: "" };
  do {
    query.set("limit", Math.min(AT_ONCE, Math.max(1, MOST - found.size)));
    if (page.cursor) query.set("cursor", page.cursor);
    page = await ask(`cases?${query}`);
    if (!goesOn()) return 0;
    takeAll(page, found);
  } while (page.cursor && found.size < MOST);
  return page.total;
}

function takeAll(page, found) {
  state.counts = page.counts;
  for (const one of page.cases) {
    take(one);
    found.add(one.id);
  }
  refresh();
}

// After the target has changed, which may let other cases fit.
export function loadOthers() {
  if (asked && String(queries()) !== asked) loadCases().catch(complain);
}

// Where a list of what is not reviewed runs out, it goes on with what was not loaded.
export function loadMore() {
  if (!state.rest || state.reviewed !== "no") return;
  const left = [...state.cases.values()].filter((one) => !one.reviewed);
  if (left.length < LOW) loadCases().catch(complain);
}

// Outcomes are the order of the list by decision, so that each is asked for in its turn.
function queries() {
  const kept = decided();
  if (state.order !== "decision") return [queryFor(kept)];
  return OUTCOMES.filter((one) => !kept.length || kept.includes(one)).map((one) => queryFor([one]));
}

// What is decided now, of all that may be shown: a target that is tried moves cases both ways.
function decided() {
  const chosen = OUTCOMES.filter((one) => state.decisions.has(one));
  const moved = state.target != null && chosen.some((one) => one !== "ood");
  return moved ? [...new Set([...chosen, "defer", "accept"])] : chosen;
}

function queryFor(decisions) {
  const query = new URLSearchParams(decisions.map((one) => ["decision", one]));
  if (state.reviewed !== "all") query.set("reviewed", state.reviewed === "yes");
  query.set("order", state.order === "newest" ? "newest" : "expected_error");
  return query;
}
