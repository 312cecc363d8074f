// Keys, controls and start of the page.

import { openAbout, renderAbout } from "./about.js";
import { ask } from "./api.js";
import { lookForAudit } from "./audit.js";
import { move, renderCase, select } from "./case_panel.js";
import { loadCases, lookForNew } from "./cases.js";
import { choiceOf, classButtons, classesOf, longOf, otherButtons } from "./choices.js";
import { at, complain, say } from "./dom.js";
import { lookForDrift } from "./drift.js";
import { enlarge, listenToPicture } from "./picture.js";
import { review, undo } from "./review.js";
import { setTarget } from "./slider.js";
import { emit, isReader, on as onEvent, see, selectedCase, state, take } from "./state.js";
import { draft, local, recall, remember } from "./storage.js";
import { chosen, dropped, send, sending, stopSending } from "./uploads.js";
import { columns, mark, renderAll, renderRows, scrollTo, setLayout, showLayout, togetherCases } from "./worklist.js";

const isGrid = () => state.layout === "grid";
const agree = () => review({ verdict: "agree" });
const KEYS = {
  j: () => move(1), ArrowDown: () => move(columns()), k: () => move(-1), ArrowUp: () => move(-columns()),
  ArrowLeft: () => move(-1), ArrowRight: () => move(1),
  Home: () => move(-Infinity), End: () => move(Infinity),
  " ": () => { if (selectedCase()) mark(state.selected); },
  Enter: () => { if (selectedCase()) openCase(); },
  a: agree, o: () => at("classes").firstElementChild?.focus(),
  r: () => { if (selectedCase()) at("why").focus(); },
  n: () => { if (selectedCase()) at("note").focus(); },
  u: undo, v: () => setLayout(isGrid() ? "list" : "grid"),
  "+": () => enlarge(1), "-": () => enlarge(-1), "/": () => at("search").focus(), "?": () => at("help").showModal(),
};
const MOVES = ["ArrowDown", "ArrowUp", "Home", "End", "Enter"]; // keys that other controls use themselves
const GRID_MOVES = ["ArrowLeft", "ArrowRight", " "]; // in the grid only
const STEADY = ["j", "k", ...MOVES, "ArrowLeft", "ArrowRight"]; // keys that repeat while they are held; others act once
const KEY_TARGETS = "body, #list, #list *, #detail, #detail *, #batch *"; // elements where keys act

function openCase() {
  setLayout("list");
  select(state.selected, { open: true });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const { target, key } = event;
  const writes = target.matches("textarea, input:not([type]), input[type=search], select");
  if (key === "Escape") return leave(writes, target);
  if (writes || !acts(key, target)) return undefined;
  const choice = choiceOf(key, isGrid() ? state.model?.classes ?? [] : classesOf(selectedCase() ?? { probabilities: {} }));
  if (event.repeat && !STEADY.includes(key)) event.preventDefault();
  else if (choice) review(choice);
  else if (Object.hasOwn(KEYS, key)) KEYS[key]();
  else return undefined;
  event.preventDefault();
  return undefined;
}

function acts(key, target) {
  if (GRID_MOVES.includes(key) && !isGrid()) return false;
  if (MOVES.includes(key) || GRID_MOVES.includes(key)) return target.matches("body, #list, #detail");
  return at("shortcuts").checked && target.matches(KEY_TARGETS);
}

function showKeys() {
  document.body.dataset.keys = at("shortcuts").checked ? "on" : "off";
}

function leave(writes, target) {
  if (writes) target.blur();
  else if (isGrid() && state.marked.size) clearMarks();
  else if (isGrid()) setLayout("list");
  else document.body.dataset.view = "list";
  at("list").focus({ preventScroll: true });
  remember();
}

function clearMarks() {
  state.marked.clear();
  renderAll();
}

function listen() {
  const on = (id, kind, act) => at(id).addEventListener(kind, act);
  document.addEventListener("keydown", onKey);
  on("list", "scroll", () => renderRows());
  on("list", "click", (event) => {
    const id = event.target.closest(".row")?.id.slice("case-".length);
    if (id && isGrid()) mark(id, { through: event.shiftKey });
    if (id) select(id, { reveal: false, open: !isGrid() });
  });
  on("list", "dblclick", (event) => { if (isGrid() && event.target.closest(".row")) openCase(); });
  on("back", "click", () => leave(false));
  for (const id of ["agree", "agree-each"]) on(id, "click", agree);
  on("review", "submit", (event) => event.preventDefault());
  on("note", "input", () => draft(state.selected, at("note").value));
  on("reviewer", "change", () => {
    local("misgiving-reviewer", at("reviewer").value);
    at("ask-name").hidden = true;
    if (state.model?.audits) changeReader();
  });
  on("undo", "click", undo);
  on("layout", "click", KEYS.v);
  on("mark-all", "click", () => {
    state.marked = new Set(togetherCases().map((one) => one.id));
    togetherCases().forEach(see);
    renderAll();
  });
  on("unmark", "click", clearMarks);
  on("shortcuts", "change", () => {
    local("misgiving-shortcuts", at("shortcuts").checked ? "on" : "off");
    showKeys();
  });
  on("open-about", "click", openAbout);
  on("open-help", "click", KEYS["?"]);
  on("target", "input", () => setTarget(at("target").valueAsNumber / 100));
  on("back-to-policy", "click", () => setTarget(null));
  on("stop", "click", stopSending);
  on("choose-files", "click", () => at("files").click());
  on("choose-folder", "click", () => at("folder").click());
  for (const id of ["files", "folder"]) {
    on(id, "change", () => { send(chosen(at(id).files)); at(id).value = ""; });
  }
  listenToPicture(on);
  listenToFilters(on);
  listenToDrops();
  new ResizeObserver(() => renderRows()).observe(at("list"));
  addEventListener("hashchange", () => { recall(); showLayout(); renderCase(); again(); });
}

// Another reader may not see what this one has answered.
async function changeReader() {
  const { selected } = state;
  state.ready = false; // the list stays, with its focus, until its cases are there
  state.cases.clear();
  state.mine.clear();
  lookForAudit();
  try {
    await loadCases();
    if (selected && !state.cases.has(selected)) take(await ask(`cases/${selected}`));
  } catch (error) {
    complain(error);
  }
  state.ready = true;
  renderAll();
  if (state.selected === selected) renderCase();
}

function listenToFilters(on) {
  for (const box of document.getElementsByName("decision")) {
    box.addEventListener("change", () => {
      state.decisions[box.checked ? "add" : "delete"](box.value);
      again();
    });
  }
  for (const name of ["predicted", "reviewed", "order"]) {
    on(name, "change", () => { state[name] = at(name).value; again(); });
  }
  let typing = 0;
  on("search", "input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { state.search = at("search").value; again(); }, 200);
  });
  onEvent("filters", again);
  onEvent("open", async (id) => {
    if (!state.cases.has(id)) take(await ask(`cases/${id}`).catch(complain));
    setLayout("list");
    select(id, { open: true });
  });
}

function renderModel() {
  const { classes } = state.model, act = (choice) => emit("choice", choice);
  at("notice").textContent = state.model.notice;
  at("shadow").hidden = !state.model.shadow;
  const { key, role } = state.model;
  if (isReader()) at("reviewer").value = key;
  at("reviewer").readOnly = isReader();
  document.body.dataset.role = role ?? "";
  for (const id of ["choose-files", "choose-folder", "open-monitor"]) at(id).hidden = isReader();
  at("sign-out").hidden = !key;
  at("signed-in").textContent = key;
  if (state.model.audits) at("riskiest").textContent = "blind, then riskiest";
  at("predicted").append(...classes.map((name) => new Option(longOf(name) ? `${name}: ${longOf(name)}` : name, name)));
  at("predicted").value = state.predicted;
  state.predicted = at("predicted").value; // a link may name a class that the model does not know
  at("batch-choices").replaceChildren(...classButtons(classes, act), ...otherButtons(act));
  renderAbout();
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
  showLayout();
  listen();
  try {
    [state.model, state.calibration] = await Promise.all([ask("model"), ask("calibration")]);
    renderModel();
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
  lookForAudit();
  setInterval(lookForDrift, 60_000);
  setInterval(lookForAudit, 60_000);
  setInterval(lookAround, 20_000);
  document.addEventListener("visibilitychange", lookAround);
}

start();
