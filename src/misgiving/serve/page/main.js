// The page of the service: keys and controls, and how it starts.

import {
  move, pick, picking, renderCase, renderPicture, scrollTo, select, showClasses,
} from "./script/detail.js";
import { lookForDrift } from "./script/drift.js";
import { loadCases } from "./script/loading.js";
import { lookAgain } from "./script/pictures.js";
import { local, recall, remember } from "./script/remembering.js";
import { lookForNew } from "./script/renewing.js";
import { draft, review, undo } from "./script/reviewing.js";
import { toggleHeat } from "./script/saliency.js";
import { chosen, dropped, send, sending, stopSending } from "./script/sending.js";
import { setTarget } from "./script/setting.js";
import { ask, at, complain, say, selectedCase, state, take } from "./script/shared.js";
import { renderAll, renderRows } from "./script/worklist.js";

const KEYS = {
  j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  Home: () => move(-Infinity), End: () => move(Infinity),
  Enter: () => { if (selectedCase()) select(state.selected, { open: true }); },
  a: () => review({ verdict: "agree" }), o: () => showClasses(!picking()),
  n: () => { if (selectedCase()) at("note").focus(); },
  s: toggleHeat, u: undo, "?": () => at("help").showModal(),
};
const MOVES = ["ArrowDown", "ArrowUp", "Home", "End", "Enter"]; // which controls know themselves
const STEADY = ["j", "k", ...MOVES]; // what a key that is held does again; it reviews once
const PLACES = "body, #list, #list *, #detail, #detail *"; // where keys act

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
  return at("shortcuts").checked && target.matches(PLACES);
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

// What is loaded is shown at once, and then what else the service has of it.
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
    } catch (error) { // a file of the folder was taken away, or may not be read
      complain(error);
    }
  });
}

// While images are being sent they are what is new; a page that nobody sees need not know.
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
