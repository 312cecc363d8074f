// The list of cases; only visible rows are in the document.

import { at, element, percent } from "./dom.js";
import {
  ORDERS, classOf, isShown, labelOf, orderOfService, outcome, reasonOf, wasPredicted,
} from "./outcomes.js";
import { renderSlider } from "./slider.js";
import { emit, inStore, on, state } from "./state.js";
import { remember } from "./storage.js";
import { drawingOf, isForgotten, lookAgain } from "./thumbnails.js";

const ROW = 76; // as in style.css
const SPARE = 6; // rows beyond both ends of the visible ones

let pending = 0;
on("change", () => {
  if (!pending) pending = requestAnimationFrame(() => { pending = 0; renderAll(); });
});

export function renderAll() {
  state.shown = [...state.cases.values()].filter(isShown).sort(ORDERS[state.order]);
  renderCounts();
  renderSlider();
  renderRows();
  at("shown").textContent = `${state.shown.length} of ${inStore()} cases${notLoaded()}`;
  const empty = state.ready && !state.shown.length;
  at("empty").hidden = !empty;
  at("list").hidden = empty;
  at("empty").textContent = inStore()
    ? "No matching cases." : "No cases yet. Drop an image on this page.";
  at("csv").href = `cases.csv?${csvQuery()}`;
  at("listed").hidden = state.order !== "listed" && ![...state.cases.values()].some((one) => one.place);
  remember();
}

function notLoaded() { // while a list is loaded, some cases of the previous one are still there
  const rest = Math.min(state.rest, inStore() - state.cases.size);
  return rest > 0 ? `; ${rest} more match but are not loaded` : "";
}

// Rows that come and go above the visible ones do not move these.
on("arrivals", () => {
  const list = at("list"), was = Math.floor(list.scrollTop / ROW), first = state.shown[was];
  renderAll();
  const now = state.shown.indexOf(state.cases.get(first?.id));
  if (list.scrollTop && now >= 0) list.scrollTop += (now - was) * ROW;
  renderRows();
});

function csvQuery() {
  const query = new URLSearchParams();
  for (const decision of state.decisions) query.append("decision", decision);
  if (state.reviewed !== "all") query.set("reviewed", state.reviewed === "yes");
  query.set("order", orderOfService());
  return query;
}

function renderCounts() {
  const counts = { ...state.counts };
  for (const one of state.cases.values()) { // a case that is not loaded counts by its stored decision
    counts[one.decision] -= 1;
    counts[outcome(one)] += 1;
  }
  at("counts").replaceChildren(...Object.entries(counts).map(
    ([name, count]) => element("span", `badge ${name}`, `${count} ${labelOf(name)}`)));
}

export function renderRows() {
  const list = at("list"), rows = at("rows");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const last = Math.min(state.shown.length,
    Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
  rows.style.height = `${state.shown.length * ROW}px`;
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

function draw(row, one, position) {
  row.setAttribute("aria-posinset", position + 1);
  row.setAttribute("aria-setsize", state.shown.length);
  row.setAttribute("aria-selected", one.id === state.selected);
  row.style.top = `${position * ROW}px`;
  const now = outcome(one);
  const values = [now, one.reviewed, one.review?.final_class, drawingOf(one)].join();
  if (row.dataset.values === values) return; // its image is not requested again
  row.dataset.values = values;
  row.replaceChildren(thumbnail(one), said(one), ending(one, now));
}

function said(one) {
  const box = element("div", "said"), line = element("div", "line");
  const name = element("span", "", one.name);
  name.title = one.name;
  line.append(element("b", "", classOf(one)));
  if (wasPredicted(one)) line.append(element("span", "was", wasPredicted(one)));
  line.append(name);
  box.append(line, element("div", "why", one.remark || reasonOf(one)));
  return box;
}

function ending(one, now) {
  const end = element("div", "end");
  end.append(element("span", `badge ${now}`, labelOf(now)));
  const error = one.error_probability;
  const line = element("span", "risk", error == null ? "" : `${percent(error, 0)} risk`);
  if (one.reviewed) line.append(" ", done());
  if (now !== one.decision) line.append(" ", element("span", "was", `was ${labelOf(one.decision)}`));
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
  image.addEventListener("error", async () => { await lookAgain(one); emit("change"); });
  image.src = `cases/${one.id}/thumbnail`;
  box.append(image);
  return box;
}

export function scrollTo(position) {
  const list = at("list"), top = position * ROW;
  if (position < 0) return;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) {
    list.scrollTop = top + ROW - list.clientHeight;
  }
}
