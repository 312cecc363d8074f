// Keys, controls and start of the page.

import { ask } from "./api.js";
import {
  move, pick, picking, renderCase, renderPicture, select, showClasses,
} from "./case_panel.js";
import { loadCases, lookForNew } from "./cases.js";
import { at, complain, say } from "./dom.js";
import { lookForDrift } from "./drift.js";
import { review, undo } from "./review.js";
import { toggleHeat } from "./saliency.js";
import { setTarget } from "./slider.js";
import { selectedCase, state, take } from "./state.js";
import { draft, local, recall, remember } from "./storage.js";
import { lookAgain } from "./thumbnails.js";
import { chosen, dropped, send, sending, stopSending } from "./uploads.js";
import { renderAll, renderRows, scrollTo } from "./worklist.js";

const KEYS = {
  j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  Home: () => move(-Infinity), End: () => move(Infinity),
  Enter: () => { if (selectedCase()) select(state.selected, { open: true }); },
  a: () => review({ verdict: "agree" }), o: () => showClasses(!picking()),
  n: () => { if (selectedCase()) at("note").focus(); },
  s: toggleHeat, u: undo, "?": () => at("help").showModal(),
};
const MOVES = ["ArrowDown", "ArrowUp", "Home", "End", "Enter"]; // keys that other controls use themselves
const STEADY = ["j", "k", ...MOVES]; // keys that repeat while they are held; others act once
const KEY_TARGETS = "body, #list, #list *, #detail, #detail *"; // elements where keys act

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || at("help").open) return;
  const { target, key } = event;
  const writes = target.matches("textarea, input:not([type]), select");
  if (key === "Escape") return leave(writes, target);
  if (writes || !acts(key, target)) return undefined;
  if (event.repeat && !STEADY.includes(key)) event.preventDefault();
  else if (picking() && /^[0-9]$/.test(key)) pick(key);
  else if (Object.hasOwn(KEYS, key)) KEYS[key]();
  else return undefined;
  event.preventDefault();
  return undefined;
}

function acts(key, target) {
  if (MOVES.includes(key)) return target.matches("body, #list, #detail");
  return at("shortcuts").checked && target.matches(KEY_TARGETS);
}

function showKeys() {
  document.body.dataset.keys = at("shortcuts").checked ? "on" : "off";
}

function leave(writes, target) {
  if (writes) target.blur();
  else if (picking()) showClasses(false);
  else document.body.dataset.view = "list";
  at("list").focus({ preventScroll: true });
  remember();
}

function listen() {
  const on = (id, kind, act) => at(id).addEventListener(kind, act);
  document.addEventListener("keydown", onKey);
  on("list", "scroll", () => renderRows());
  on("list", "click", (event) => {
    const row = event.target.closest(".row");
    if (row) select(row.id.slice("case-".length), { reveal: false, open: true });
  });
  on("case-image", "error", async () => {
    const one = selectedCase();
    if (!one) return;
    await lookAgain(one);
    if (one.id === state.selected) renderPicture(one);
  });
  on("back", "click", () => leave(false));
  on("agree", "click", () => review({ verdict: "agree" }));
  on("override", "click", () => showClasses(!picking()));
  on("review", "submit", (event) => event.preventDefault());
  on("note", "input", () => draft(state.selected, at("note").value));
  on("reviewer", "change", () => local("misgiving-reviewer", at("reviewer").value));
  on("undo", "click", undo);
  on("shortcuts", "change", () => {
    local("misgiving-shortcuts", at("shortcuts").checked ? "on" : "off");
    showKeys();
  });
  on("saliency", "click", toggleHeat);
  on("open-help", "click", () => at("help").showModal());
  on("target", "input", () => setTarget(at("target").valueAsNumber / 100));
  on("back-to-policy", "click", () => setTarget(null));
  on("stop", "click", stopSending);
  on("choose-files", "click", () => at("files").click());
  on("choose-folder", "click", () => at("folder").click());
  for (const id of ["files", "folder"]) {
    on(id, "change", () => { send(chosen(at(id).files)); at(id).value = ""; });
  }
  listenToFilters(on);
  listenToDrops();
  addEventListener("resize", () => renderRows());
  addEventListener("hashchange", () => { recall(); renderCase(); again(); });
}

function listenToFilters(on) {
  for (const box of document.getElementsByName("decision")) {
    box.addEventListener("change", () => {
      state.decisions[box.checked ? "add" : "delete"](box.value);
      again();
    });
  }
  for (const name of ["reviewed", "order"]) {
    on(name, "change", () => { state[name] = at(name).value; again(); });
  }
}

// Show loaded cases at once, and then further ones of the service.
async function again() {
  at("list").scrollTop = 0;
  renderAll();
  try {
    await loadCases();
    renderAll();
    say(at("shown").textContent);
  } catch (error) {
    complain(error);
  }
}

function listenToDrops() {
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    try {
      send(await dropped(event.dataTransfer));
    } catch (error) { // a file of the folder was removed or is not readable
      complain(error);
    }
  });
}

// Not while images are being sent, or while the page is hidden.
function lookAround() {
  if (!document.hidden && !sending.run) lookForNew();
}

async function start() {
  at("reviewer").value = local("misgiving-reviewer");
  at("shortcuts").checked = local("misgiving-shortcuts") !== "off";
  showKeys();
  recall();
  listen();
  try {
    [state.model, state.calibration] = await Promise.all([ask("model"), ask("calibration")]);
    at("notice").textContent = state.model.notice;
    await lookForNew();
    await loadCases();
    if (state.selected && !state.cases.has(state.selected)) take(await ask(`cases/${state.selected}`));
  } catch (error) {
    complain(error);
  }
  state.ready = true;
  renderAll();
  if (state.selected && selectedCase()) {
    scrollTo(state.shown.findIndex((one) => one.id === state.selected));
    renderRows();
    renderCase();
  }
  document.body.dataset.ready = "yes";
  lookForDrift();
  setInterval(lookForDrift, 60_000);
  setInterval(lookAround, 20_000);
  document.addEventListener("visibilitychange", lookAround);
}

start();
