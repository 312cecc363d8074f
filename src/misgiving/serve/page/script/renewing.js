// What others have done since the page was loaded: new cases, and new reviews.

import { isShown } from "./deciding.js";
import { askAgain, tellOf } from "./detail.js";
import { loadCases } from "./loading.js";
import { isSending } from "./reviewing.js";
import { ask, state, take } from "./shared.js";
import { renderInPlace } from "./worklist.js";

const OVERLAP = 15_000; // milliseconds: what has begun before may be committed after
const AT_ONCE = 500;
const PAGES = 10; // of what is new; where there is more, the list is loaded anew

let since = null; // when was last asked, by the service's clock
let known = new Set(); // ids of the last look: those that it saw need no second
let looking = false;

// The first look only finds out what is known already; the list is loaded after it.
export async function lookForNew() {
  if (looking) return;
  looking = true;
  try {
    await look();
  } catch { /* the next look may be answered */ }
  looking = false;
}

async function look() {
  const first = since == null;
  since ??= (await ask("cases?limit=1")).asked_at;
  const from = new Date(Date.parse(since) - OVERLAP).toISOString();
  const came = await everyCase(`received_since=${from}`);
  const reviewed = first ? came : await everyCase(`reviewed_since=${from}`);
  since = came.askedAt;
  const fresh = first ? [] : came.cases.filter((one) => !known.has(one.id));
  known = new Set(came.cases.map((one) => one.id));
  if (!first && !(came.all && reviewed.all)) return loadCases();
  fresh.forEach(take);
  return renew(first ? [] : reviewed.cases);
}

// All of them, unless there are too many to be merged one by one.
async function everyCase(query) {
  let page = { cursor: "" }, askedAt = null;
  const cases = [];
  for (let turn = 0; turn < PAGES && page.cursor != null; turn++) {
    const cursor = page.cursor ? `&cursor=${page.cursor}` : "";
    page = await ask(`cases?order=newest&limit=${AT_ONCE}&${query}${cursor}`);
    askedAt ??= page.asked_at;
    state.counts = page.counts;
    cases.push(...page.cases);
  }
  return { cases, askedAt, all: page.cursor == null };
}

function renew(reviewed) {
  const newer = reviewed.filter((one) => one.review?.reviewed_at !== reviewOf(one.id));
  newer.filter((one) => state.cases.has(one.id) || isShown(one)).forEach(take);
  const selected = newer.find((one) => one.id === state.selected);
  if (selected && !isSending()) {
    tellOf(selected);
    askAgain(selected.id);
  }
  if (state.ready) renderInPlace();
}

const reviewOf = (id) => state.cases.get(id)?.review?.reviewed_at;
