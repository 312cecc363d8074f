// The list of cases: only the rows that are seen are in the document.

import { ORDERS, isShown, outcome } from "./deciding.js";
import { drawingOf, isForgotten, lookAgain } from "./pictures.js";
import { remember } from "./remembering.js";
import { renderSetting } from "./setting.js";
import { at, element, inStore, percent, state } from "./shared.js";

export const ROW = 76; // as in page.css
const SPARE = 6; // rows beyond both ends of what is seen

let pending = 0;
export function refresh() {
  if (!pending) pending = requestAnimationFrame(() => { pending = 0; renderAll(); });
}

export function renderAll() {
  state.shown = [...state.cases.values()].filter(isShown).sort(ORDERS[state.order]);
  renderCounts();
  renderSetting();
  renderRows();
  at("shown").textContent = `${state.shown.length} of ${inStore()} cases${notLoaded()}`;
  const empty = state.ready && !state.shown.length;
  at("empty").hidden = !empty;
  at("list").hidden = empty;
  at("empty").textContent = inStore()
    ? "No case is like that." : "No case yet. Drop an image on this page.";
  at("csv").href = `cases.csv?${csvQuery()}`;
  remember();
}

function notLoaded() { // while a list is loaded, some of the one before are there
  const rest = Math.min(state.rest, inStore() - state.cases.size);
  return rest > 0 ? `; ${rest} more fit and are not loaded` : "";
}

// Where rows come and go above what is seen, that stays where it is.
export function renderInPlace() {
  const list = at("list"), was = Math.floor(list.scrollTop / ROW), first = state.shown[was];
  renderAll();
  const now = state.shown.indexOf(state.cases.get(first?.id));
  if (list.scrollTop && now >= 0) list.scrollTop += (now - was) * ROW;
  renderRows();
}

function csvQuery() {
  const query = new URLSearchParams();
  for (const decision of state.decisions) query.append("decision", decision);
  if (state.reviewed !== "all") query.set("reviewed", state.reviewed === "yes");
  query.set("order", state.order === "newest" ? "newest" : "expected_error");
  return query;
}

function renderCounts() {
  const counts = { ...state.counts };
  for (const one of state.cases.values()) { // of what is not loaded, what was decided counts
    counts[one.decision] -= 1;
    counts[outcome(one)] += 1;
  }
  at("counts").replaceChildren(...Object.entries(counts).map(
    ([name, count]) => element("span", `badge ${name}`, `${count} ${name}`)));
}

export function renderRows() {
  const list = at("list"), rows = at("rows");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const last = Math.min(state.shown.length,
    Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
  rows.style.height = `${state.shown.length * ROW}px`;
  const old = new Map([...rows.children].map((row) => [row.id, row]));
  // What has not changed stays, so that pictures are not asked for again and focus is not lost.
  rows.replaceChildren(...state.shown.slice(first, last).map((one, index) => {
    const kept = old.get(`case-${one.id}`);
    return kept?.dataset.state === looks(one, first + index) ? kept : rowOf(one, first + index);
  }));
  for (const row of rows.children) {
    const chosen = row.id === `case-${state.selected}`;
    row.setAttribute("aria-selected", chosen);
  }
  const present = at(`case-${state.selected}`);
  if (present) list.setAttribute("aria-activedescendant", present.id);
  else list.removeAttribute("aria-activedescendant");
}

// What a row is made from: where it is the same, so is the row.
function looks(one, position) {
  return [position, state.shown.length, outcome(one), one.reviewed, one.review?.final_class,
    drawingOf(one)].join();
}

function rowOf(one, position) {
  const now = outcome(one);
  const row = element("div", "row");
  row.id = `case-${one.id}`;
  row.dataset.state = looks(one, position);
  row.setAttribute("role", "option");
  row.setAttribute("aria-posinset", position + 1);
  row.setAttribute("aria-setsize", state.shown.length);
  row.style.top = `${position * ROW}px`;
  row.append(thumbnail(one), said(one), ending(one, now));
  return row;
}

function said(one) {
  const box = element("div", "said"), line = element("div", "line");
  const name = element("span", "", one.name);
  name.title = one.name;
  line.append(element("b", "", classOf(one)));
  if (wasNamed(one)) line.append(element("span", "was", wasNamed(one)));
  line.append(name);
  box.append(line, element("div", "why", reasonOf(one)));
  return box;
}

// As a person says, else the model.
export const classOf = (one) => one.review?.final_class ?? one.predicted_class;

// What the model has said, where a person says otherwise.
export const wasNamed = (one) =>
  classOf(one) === one.predicted_class ? "" : `was ${one.predicted_class}`;

// The reason is that of the saved policy, also where a setting that is tried decides otherwise.
export const reasonOf = (one) =>
  outcome(one) === one.decision ? one.reason : `By the saved policy: ${one.reason}`;

function ending(one, now) {
  const end = element("div", "end");
  end.append(element("span", `badge ${now}`, now));
  const error = one.error_probability;
  const line = element("span", "risk", error == null ? "" : `${percent(error, 0)} risk`);
  if (one.reviewed) line.append(" ", done());
  if (now !== one.decision) line.append(" ", element("span", "was", `was ${one.decision}`));
  end.append(line);
  return end;
}

function done() {
  const mark = element("span", "done", "✓");
  mark.title = "reviewed";
  mark.append(element("span", "hidden", " reviewed"));
  return mark;
}

function thumbnail(one) {
  const box = element("div", "thumb");
  if (isForgotten(one)) {
    box.textContent = "no image";
    return box;
  }
  const image = new Image(56, 56);
  image.alt = "";
  image.decoding = "async";
  image.addEventListener("error", async () => { await lookAgain(one); refresh(); });
  image.src = `cases/${one.id}/thumbnail`;
  box.append(image);
  return box;
}
