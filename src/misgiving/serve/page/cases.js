// Loads the cases that match the filters, and looks for new cases and reviews.

import { ask } from "./api.js";
import { complain } from "./dom.js";
import { filterOf, isShown } from "./outcomes.js";
import { OUTCOMES, emit, on, state, take } from "./state.js";

const MOST = 5000; // loaded cases; the CSV has all
const PAGE = 500; // cases in one response
const LOW = 50; // unreviewed cases left when more are loaded
const PAGES = 10; // of new cases; if there are more, the whole list is loaded again

let asked = ""; // the query of the last load
let loads = 0;
let counted = ""; // the query of the last count of reviews

// A load that starts before another one ends replaces it.
export async function loadCases() {
  const mine = ++loads, before = [...state.cases.keys()], found = new Set();
  const wanted = queries();
  asked = String(wanted);
  let matching = 0;
  for (const query of wanted) {
    const total = await load(query, found, () => mine === loads);
    if (mine !== loads) return;
    matching += total;
  }
  state.rest = Math.max(0, matching - found.size);
  for (const id of before) { // cases that arrived meanwhile stay
    if (!found.has(id) && id !== state.selected) state.cases.delete(id);
  }
  emit("change");
  await countReviews();
}

// How far the review has come, of the cases that match the other filters.
export async function countReviews() {
  const query = filterOf(state.decisions, { reviewed: "all" });
  const mine = counted = String(query);
  const { total, reviewed } = await ask(`cases?limit=1&${query}`);
  if (mine !== counted) return; // the filters have changed meanwhile
  state.tally = { total, reviewed };
  emit("change");
}

async function load(query, found, isCurrent) {
  let total = 0;
  for await (const page of pages(query)) {
    if (!isCurrent()) return 0;
    ({ total } = page);
    for (const one of page.cases.slice(0, MOST - found.size)) {
      take(one);
      found.add(one.id);
      if (query.has("mine")) state.mine.add(one.id);
    }
    emit("change");
    if (found.size >= MOST) break;
  }
  return total;
}

async function* pages(query) {
  let page = { cursor: "" };
  do {
    page = await ask(`cases?limit=${PAGE}&${query}${page.cursor && `&cursor=${page.cursor}`}`);
    state.counts = page.counts;
    yield page;
  } while (page.cursor);
}

// Another target may match other cases.
on("target", () => {
  if (asked && String(queries()) !== asked) loadCases().catch(complain);
});

// When a list of unreviewed cases runs out, the next ones are loaded.
export function loadMore() {
  if (!state.rest || state.reviewed !== "no") return;
  const left = [...state.cases.values()].filter((one) => !one.reviewed);
  if (left.length < LOW) loadCases().catch(complain);
}

// The order by decision needs one query for each decision.
function queries() {
  const kept = decided();
  if (state.order !== "decision") return [filterOf(kept)];
  return OUTCOMES.filter((one) => !kept.length || kept.includes(one)).map((one) => filterOf([one]));
}

// The stored decisions of all cases that may be shown: a previewed target moves cases both ways.
function decided() {
  const chosen = OUTCOMES.filter((one) => state.decisions.has(one));
  const moved = state.target != null && chosen.some((one) => one !== "ood");
  return moved ? [...new Set([...chosen, "defer", "accept"])] : chosen;
}

let latest = null; // numbers of the last case and review at the last look
let looking = null;

// The first look only finds out what is there; the list is loaded after it.
export function lookForNew() {
  looking ??= look().catch(() => { /* the next look may succeed */ }).finally(() => { looking = null; });
  return looking;
}

async function look() {
  if (latest == null) {
    latest = await ask("cases?limit=1");
    return undefined;
  }
  const came = await everyCase(`arrived_after=${latest.last_arrival}`);
  const reviewed = await everyCase(`reviewed_after=${latest.last_review}`);
  latest = { last_arrival: came.first.last_arrival, last_review: reviewed.first.last_review };
  if (!(came.all && reviewed.all)) return loadCases();
  came.cases.forEach(take);
  merge(reviewed.cases);
  return countReviews();
}

async function everyCase(query) {
  const seen = [];
  for await (const page of pages(`order=newest&${query}`)) {
    seen.push(page);
    if (seen.length === PAGES) break;
  }
  return { cases: seen.flatMap((page) => page.cases), first: seen[0], all: seen.at(-1).cursor == null };
}

function merge(reviewed) {
  const reviewOf = (id) => state.cases.get(id)?.review?.reviewed_at;
  const newer = reviewed.filter((one) => one.review?.reviewed_at !== reviewOf(one.id));
  newer.filter((one) => state.cases.has(one.id) || isShown(one)).forEach(take);
  const selected = newer.find((one) => one.id === state.selected);
  if (selected) emit("outside-review", selected);
  if (state.ready) emit("arrivals");
}
