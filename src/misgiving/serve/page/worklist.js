// The cases as a list or a grid; only visible ones are in the document.

import { asReader } from "./api.js";
import { longOf } from "./choices.js";
import { at, element, say } from "./dom.js";
import {
  ORDERS, badgeOf, classOf, filterOf, isAccepted, isShown, labelOf, outcome, riskOf, wasPredicted,
} from "./outcomes.js";
import { renderSlider } from "./slider.js";
import { emit, inStore, on, see, state } from "./state.js";
import { remember } from "./storage.js";
import { drawingOf, isMissing, lookAgain } from "./thumbnails.js";

const ROW = 64; // height of a row, as in style.css
const CELL = { width: 180, height: 184 }; // of the grid: the least width, and the height
const SPARE = 6; // rows beyond both ends of the visible ones

let pending = 0;
on("change", () => {
  if (!pending) pending = requestAnimationFrame(() => { pending = 0; renderAll(); });
});

const isGrid = () => state.layout === "grid";
export const columns = () => (isGrid() ? Math.max(1, Math.floor(at("list").clientWidth / CELL.width)) : 1);
const rowHeight = () => (isGrid() ? CELL.height : ROW);

// Only what is shown is reviewed together, and no blind case: each needs a look of its own.
export const togetherCases = () => state.shown.filter((one) => !one.blind);
export const markedCases = () => togetherCases().filter((one) => state.marked.has(one.id));

export function renderAll() {
  state.shown = [...state.cases.values()].filter(isShown).sort(ORDERS[state.order]);
  renderCounts();
  renderTally();
  renderSlider();
  at("shown").textContent = `${state.shown.length} of ${inStore()} cases${notLoaded()}`;
  const empty = state.ready && !state.shown.length;
  document.body.dataset.cases = state.ready && !inStore() ? "none" : "some";
  at("start").hidden = !state.ready || inStore() > 0;
  at("empty").hidden = !empty;
  at("list").hidden = empty;
  at("empty").textContent = "No matching cases.";
  at("csv").href = asReader(`cases.csv?${filterOf(state.decisions)}`);
  at("listed").hidden = state.order !== "listed" && ![...state.cases.values()].some((one) => one.place);
  renderBatch();
  renderRows();
  remember();
}

function notLoaded() { // while a list is loaded, some cases of the previous one are still there
  const rest = Math.min(state.rest, inStore() - state.cases.size);
  return rest > 0 ? `; ${rest} more match but are not loaded` : "";
}

// Rows that come and go above the visible ones do not move these.
on("arrivals", () => {
  const list = at("list"), high = rowHeight(), wide = columns();
  const was = Math.floor(list.scrollTop / high), first = state.shown[was * wide];
  renderAll();
  const now = Math.floor(state.shown.indexOf(state.cases.get(first?.id)) / wide);
  if (list.scrollTop && now >= 0) list.scrollTop += (now - was) * high;
  renderRows();
});

function renderCounts() {
  const counts = { ...state.counts };
  for (const one of state.cases.values()) { // a case that is not loaded counts by its stored decision
    counts[one.decision] -= 1;
    counts[outcome(one)] += 1;
  }
  for (const box of document.getElementsByName("decision")) {
    box.parentElement.lastElementChild.textContent = counts[box.value];
  }
}

function renderTally() {
  at("tally").hidden = !state.tally?.total;
  if (!state.tally) return;
  const { total, reviewed } = state.tally;
  const byPolicy = state.target != null && state.decisions.size ? " (by the saved policy)" : "";
  at("tally-bar").max = Math.max(1, total);
  at("tally-bar").value = reviewed;
  at("tally-text").textContent = `${reviewed} of ${total} reviewed${byPolicy}`;
}

export function renderBatch() {
  const cases = markedCases(), marked = cases.length;
  at("batch").hidden = !isGrid();
  const sent = state.saving;
  at("batch-bar").hidden = !sent;
  Object.assign(at("batch-bar"), sent ?? {});
  at("batch-count").textContent = sent ? `${sent.value} of ${sent.max} sent`
    : marked ? `${marked} selected` : "Select cases to review them together";
  const all = togetherCases().length;
  at("mark-all").textContent = `Select all ${all} shown`;
  at("mark-all").disabled = marked === all;
  for (const button of at("batch").querySelectorAll(".choices button, #unmark")) button.disabled = !marked;
  at("agree-each").disabled = !marked || !cases.every(isAccepted);
}

export function setLayout(layout) {
  if (layout === state.layout) return;
  state.layout = document.body.dataset.layout = layout;
  showLayout();
  renderAll();
  scrollTo(state.shown.findIndex((one) => one.id === state.selected));
}

export function showLayout() {
  const grid = isGrid();
  at("layout").setAttribute("aria-pressed", grid);
  at("list").setAttribute("aria-multiselectable", grid);
  at("rows").replaceChildren();
}

function add(one) {
  if (one.blind) return say("A blind case is read alone: open it.");
  state.marked.add(one.id);
  return see(one);
}

// With `through`, all from the last marked one to this one.
let lastMarked = null;
export function mark(id, { through = false } = {}) {
  const [here, from] = [id, lastMarked].map((each) => state.shown.findIndex((one) => one.id === each));
  if (through && from >= 0) {
    for (const one of state.shown.slice(Math.min(here, from), Math.max(here, from) + 1)) add(one);
  } else if (!state.marked.delete(id)) add(state.cases.get(id));
  lastMarked = id;
  renderBatch();
  renderRows();
}

export function renderRows() {
  const list = at("list"), rows = at("rows"), high = rowHeight(), wide = columns();
  const first = wide * Math.max(0, Math.floor(list.scrollTop / high) - SPARE);
  const last = Math.min(state.shown.length,
    wide * (Math.ceil((list.scrollTop + list.clientHeight) / high) + SPARE));
  rows.style.height = `${Math.ceil(state.shown.length / wide) * high}px`;
  const old = new Map([...rows.children].map((row) => [row.id, row]));
  const visible = state.shown.slice(first, last).map((one, index) => {
    const row = old.get(`case-${one.id}`) ?? newRow(one);
    draw(row, one, first + index);
    return row;
  });
  // Rows that stay are not moved: a row that leaves the document, even for an instant, loses the
  // click that has begun on it.
  for (const row of old.values()) if (!visible.includes(row)) row.remove();
  visible.forEach((row, index) => {
    if (rows.children[index] !== row) rows.insertBefore(row, rows.children[index] ?? null);
  });
  const present = at(`case-${state.selected}`);
  if (present) list.setAttribute("aria-activedescendant", present.id);
  else list.removeAttribute("aria-activedescendant");
}

function newRow(one) {
  const row = element("div", "row");
  row.id = `case-${one.id}`;
  row.setAttribute("role", "option");
  return row;
}

// How many of the shown cases can still be read today; -1: no number is set.
function leftToday() {
  if (!state.model?.reviews) return -1;
  const today = new Date().toDateString();
  const read = [...state.cases.values()].filter((one) => !isShown(one)
    && one.review && new Date(one.review.reviewed_at).toDateString() === today);
  return Math.max(0, state.model.reviews - read.length);
}

function draw(row, one, position) {
  const wide = columns();
  row.setAttribute("aria-posinset", position + 1);
  row.setAttribute("aria-setsize", state.shown.length);
  row.setAttribute("aria-selected", isGrid() ? state.marked.has(one.id) : one.id === state.selected);
  row.classList.toggle("here", one.id === state.selected);
  row.classList.toggle("day-ends", !isGrid() && position + 1 === leftToday());
  row.style.top = `${Math.floor(position / wide) * rowHeight()}px`;
  row.style.left = `${(position % wide) * 100 / wide}%`;
  row.style.width = `${100 / wide}%`;
  const now = outcome(one);
  const values = [now, one.reviewed, classOf(one), drawingOf(one), state.conflicts.has(one.id)].join();
  if (row.dataset.values === values) return; // its image is not requested again
  row.dataset.values = values;
  row.replaceChildren(thumbnail(one), said(one), ending(one, now));
}

function said(one) {
  const long = longOf(classOf(one)), was = wasPredicted(one);
  const conflict = state.conflicts.get(one.id), lines = conflict ? [["conflict", conflict]] : [["file", one.name], ["why", one.remark]];
  const texts = lines.filter(([, text]) => text).map(([kind, text]) => {
    const made = element("div", kind, text);
    made.title = text;
    return made;
  });
  const line = element("div", "line", element("b", "", classOf(one)),
    long && element("span", "long", long), was && element("span", "was", was));
  return element("div", "said", line, ...texts);
}

function ending(one, now) {
  const line = element("span", "risk", riskOf(one));
  line.title = one.reason; // equal risks can be decided differently: scores are compared in full
  if (one.reviewed) line.append(" ", done());
  if (now !== one.decision) line.append(" ", element("span", "was", `was ${labelOf(one.decision)}`));
  return element("div", "end", element("span", `badge ${badgeOf(one)}`, labelOf(badgeOf(one))), line);
}

function done() {
  const mark = element("span", "done", "✓", element("span", "hidden", " reviewed"));
  mark.title = "reviewed";
  return mark;
}

function thumbnail(one) {
  if (isMissing(one)) return element("div", "thumb", "no image");
  const image = new Image();
  image.alt = "";
  image.decoding = "async";
  image.addEventListener("error", async () => { await lookAgain(one); emit("change"); });
  image.src = `cases/${one.id}/thumbnail`;
  return element("div", "thumb", image);
}

export function scrollTo(position) {
  const list = at("list"), high = rowHeight(), top = Math.floor(position / columns()) * high;
  if (position < 0) return;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + high > list.scrollTop + list.clientHeight) {
    list.scrollTop = top + high - list.clientHeight;
  }
}
