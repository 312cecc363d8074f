// State that survives a reload: in the address, notes in the tab, settings in the browser.

import { at } from "./dom.js";
import { ORDERS } from "./outcomes.js";
import { OUTCOMES, state } from "./state.js";

export function remember() {
  if (!state.ready) return;
  const kept = new URLSearchParams();
  if (state.decisions.size) kept.set("show", [...state.decisions].sort().join("."));
  if (state.reviewed !== "no") kept.set("reviewed", state.reviewed);
  if (state.order !== "error") kept.set("order", state.order);
  if (state.predicted) kept.set("class", state.predicted);
  if (state.search) kept.set("name", state.search);
  if (state.layout !== "list") kept.set("layout", state.layout);
  if (state.target != null) kept.set("target", Number(state.target.toFixed(4)));
  if (state.selected) kept.set("case", state.selected);
  if (document.body.dataset.view === "case") kept.set("view", "case");
  const hash = kept.size ? `#${kept}` : " ";
  if (hash.trim() !== location.hash) history.replaceState(null, "", hash);
}

export function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const target = Number.parseFloat(kept.get("target"));
  state.decisions = new Set((kept.get("show") ?? "").split(".").filter((one) => OUTCOMES.includes(one)));
  state.reviewed = ["yes", "all", "mine"].includes(kept.get("reviewed")) ? kept.get("reviewed") : "no";
  state.order = Object.hasOwn(ORDERS, kept.get("order")) ? kept.get("order") : "error";
  state.target = target > 0 && target < 1 ? target : null;
  state.selected = /^[0-9a-f]{32}$/.test(kept.get("case")) ? kept.get("case") : null;
  document.body.dataset.view = kept.get("view") === "case" && state.selected ? "case" : "list";
  for (const box of document.getElementsByName("decision")) box.checked = state.decisions.has(box.value);
  state.predicted = kept.get("class") ?? "";
  state.search = (kept.get("name") ?? "").slice(0, 255);
  state.layout = document.body.dataset.layout = kept.get("layout") === "grid" ? "grid" : "list";
  for (const id of ["predicted", "search"]) at(id).value = state[id];
  at("reviewed").value = state.reviewed;
  at("order").value = state.order;
  at("setting").open = state.target != null;
}

export function local(key, value) {
  try {
    if (value === undefined) return localStorage.getItem(key) ?? "";
    localStorage.setItem(key, value);
  } catch { /* the browser does not allow it */ }
  return "";
}

// Notes that are not saved yet, by case; a reload of the tab keeps them.
const drafts = new Map(Object.entries(notes()));
export const draftOf = (id) => drafts.get(id) ?? "";
export function draft(id, note) {
  if (note) drafts.set(id, note);
  else drafts.delete(id);
  notes(Object.fromEntries(drafts));
}

function notes(kept) {
  try {
    if (!kept) return JSON.parse(sessionStorage.getItem("misgiving-notes")) ?? {};
    sessionStorage.setItem("misgiving-notes", JSON.stringify(kept));
  } catch { /* the browser does not allow it */ }
  return {};
}
