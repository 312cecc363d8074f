// The page of the service. Everything that comes from outside is shown as text, never as markup.

const ROW = 76; // as in page.css
const SPARE = 6; // rows beyond both ends of what is seen
const MOST = 5000; // cases in the list; the CSV has all
const SENT_AT_ONCE = 8; // files of one request
const RETRIES = 30;
const OUTCOMES = ["foreign", "defer", "accept"];
const SVG = "http://www.w3.org/2000/svg";

const at = (id) => document.getElementById(id);
const say = (text) => { at("status").textContent = text; };
const percent = (share, digits = 1) =>
  share == null ? "–" : `${(100 * share).toFixed(digits)} %`;

const state = {
  cases: new Map(), total: 0, shown: [], selected: null, target: null,
  decisions: new Set(), reviewed: "all", order: "error",
  model: null, calibration: null, forgotten: "", ready: false,
};

// ---------------------------------------------------------------- requests

async function ask(path, options) {
  const answer = await fetch(path, options).catch(() => null);
  if (!answer) throw new Error("The service does not answer. Is it running?");
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  const error = new Error(content.detail ?? `The service answers ${answer.status}.`);
  Object.assign(error, { status: answer.status, content, wait: answer.headers.get("Retry-After") });
  throw error;
}

let problemTimer = 0;
function complain(error) {
  at("problem").textContent = error.message;
  at("problem").hidden = false;
  clearTimeout(problemTimer);
  problemTimer = setTimeout(() => { at("problem").hidden = true; }, 8000);
}

async function loadCases() {
  let cursor = null;
  do {
    const query = new URLSearchParams({ limit: 500 });
    if (cursor) query.set("cursor", cursor);
    const page = await ask(`cases?${query}`);
    state.total = page.total;
    page.cases.forEach(take);
    cursor = page.cursor;
    refresh();
  } while (cursor && state.cases.size < MOST);
}

function take(one) {
  state.cases.set(one.id, one);
}

// ---------------------------------------------------------------- what a setting decides

// The loosest setting whose bound is within the target; null: none is.
function settingFor(target) {
  const within = state.calibration.settings.filter((one) => one.bound <= target);
  return within.at(-1) ?? null;
}

function outcome(one) {
  if (state.target == null || !sameModel(one)) return one.decision;
  if (one.decision === "foreign") return "foreign";
  const setting = settingFor(state.target);
  const limit = state.calibration.saved.foreign_threshold;
  const usable = one.score != null && (limit == null || one.foreign_score > limit);
  const reached = setting && (setting.threshold == null || one.score >= setting.threshold);
  return usable && reached ? "accept" : "defer";
}

const sameModel = (one) => one.policy_fingerprint === state.model?.policy_fingerprint;

// As the service orders: the probability of error, or what comes closest to it.
function doubt(one) {
  if (one.error_probability != null) return one.error_probability;
  return one.probability == null ? 2 : 1 - one.probability;
}

const byDoubt = (a, b) => doubt(b) - doubt(a) || (a.id < b.id ? 1 : -1);
const ORDERS = {
  error: byDoubt,
  decision: (a, b) => OUTCOMES.indexOf(outcome(a)) - OUTCOMES.indexOf(outcome(b)) || byDoubt(a, b),
  newest: (a, b) => (a.id < b.id ? 1 : -1),
};

function isShown(one) {
  const { decisions, reviewed } = state;
  return (!decisions.size || decisions.has(outcome(one)))
    && (reviewed === "all" || one.reviewed === (reviewed === "yes"));
}

// ---------------------------------------------------------------- the worklist

let pending = 0;
function refresh() {
  if (!pending) pending = requestAnimationFrame(() => { pending = 0; renderAll(); });
}

function renderAll() {
  state.shown = [...state.cases.values()].filter(isShown).sort(ORDERS[state.order]);
  renderCounts();
  renderSetting();
  renderRows();
  const many = state.total > state.cases.size ? `; ${state.total} in the store` : "";
  at("shown").textContent = `${state.shown.length} of ${state.cases.size} cases${many}`;
  const empty = state.ready && !state.shown.length;
  at("empty").hidden = !empty;
  at("list").hidden = empty;
  at("empty").textContent = state.cases.size
    ? "No case is like that." : "No case yet. Drop an image on this page.";
  at("csv").href = `cases.csv?${csvQuery()}`;
  remember();
}

function csvQuery() {
  const query = new URLSearchParams();
  for (const decision of state.decisions) query.append("decision", decision);
  if (state.reviewed !== "all") query.set("reviewed", state.reviewed === "yes");
  query.set("order", state.order === "newest" ? "newest" : "expected_error");
  return query;
}

function renderCounts() {
  const counts = { accept: 0, defer: 0, foreign: 0 };
  for (const one of state.cases.values()) counts[outcome(one)] += 1;
  at("counts").replaceChildren(...Object.entries(counts).map(
    ([name, count]) => element("span", `badge ${name}`, `${count} ${name}`)));
}

function renderRows() {
  const list = at("list"), rows = at("rows");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const last = Math.min(state.shown.length,
    Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
  rows.style.height = `${state.shown.length * ROW}px`;
  const wanted = state.shown.slice(first, last).map((one, index) => rowOf(one, first + index));
  const old = new Map([...rows.children].map((row) => [row.id, row]));
  // What has not changed stays, so that pictures do not flicker and focus is not lost.
  rows.replaceChildren(...wanted.map((row) =>
    old.get(row.id)?.dataset.state === row.dataset.state ? old.get(row.id) : row));
  for (const row of rows.children) {
    const chosen = row.id === `case-${state.selected}`;
    row.setAttribute("aria-selected", chosen);
  }
  const present = at(`case-${state.selected}`);
  if (present) list.setAttribute("aria-activedescendant", present.id);
  else list.removeAttribute("aria-activedescendant");
}

function rowOf(one, position) {
  const now = outcome(one);
  const row = element("div", "row");
  row.id = `case-${one.id}`;
  row.dataset.state = [position, state.shown.length, now, one.reviewed, one.review?.final_class,
    one.id <= state.forgotten].join();
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
  line.append(element("b", "", one.review?.final_class ?? one.predicted_class), name);
  box.append(line, element("div", "why", one.reason));
  return box;
}

function ending(one, now) {
  const end = element("div", "end");
  end.append(element("span", `badge ${now}`, now));
  const error = one.error_probability;
  const line = element("span", "risk", error == null ? "" : `${percent(error, 0)} risk`);
  if (one.reviewed) line.append(element("span", "done", " ✓ reviewed"));
  if (now !== one.decision) line.append(element("span", "was", ` was ${one.decision}`));
  end.append(line);
  return end;
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
  image.addEventListener("error", () => { forget(one); });
  image.src = `cases/${one.id}/thumbnail`;
  box.append(image);
  return box;
}

// The oldest pictures leave the service's memory first: what is older need not be asked for.
const isForgotten = (one) => !one.image_kept && one.id <= state.forgotten;
function forget(one) {
  if (one.id > state.forgotten) state.forgotten = one.id;
  refresh();
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text != null) made.textContent = text;
  return made;
}

// ---------------------------------------------------------------- the selected case

const selectedCase = () => state.cases.get(state.selected) ?? null;

function select(id, { reveal = true, open = false } = {}) {
  const changed = id !== state.selected;
  state.selected = id;
  if (reveal) scrollTo(state.shown.findIndex((one) => one.id === id));
  renderRows();
  if (changed) renderCase();
  if (open) {
    document.body.dataset.view = "case";
    if (isNarrow()) {
      scroll(0, 0);
      at("detail").focus({ preventScroll: true });
    }
  }
  remember();
}

const isNarrow = () => matchMedia("(max-width: 820px)").matches;

function scrollTo(position) {
  const list = at("list"), top = position * ROW;
  if (position < 0) return;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) {
    list.scrollTop = top + ROW - list.clientHeight;
  }
}

function move(step) {
  if (!state.shown.length) return;
  const here = state.shown.findIndex((one) => one.id === state.selected);
  const next = here < 0 ? 0 : Math.min(state.shown.length - 1, Math.max(0, here + step));
  select(state.shown[next].id);
}

function renderCase() {
  const one = selectedCase();
  at("placeholder").hidden = Boolean(one);
  at("case").hidden = !one;
  hideHeat();
  showClasses(false);
  if (!one) return;
  at("case-class").textContent = one.review?.final_class ?? one.predicted_class;
  at("case-name").textContent = one.name;
  at("case-reason").textContent = one.reason;
  at("note").value = "";
  at("agree").replaceChildren(`Agree: ${one.predicted_class} `, element("kbd", "", "a"));
  at("detail").scrollTop = 0;
  renderOutcome(one);
  renderPicture(one);
  renderShares(one);
  renderFacts(one);
  renderHistory(one.review ? [one.review] : []);
  if (one.reviewed) loadHistory(one.id);
}

function renderOutcome(one) {
  const now = outcome(one), badge = at("case-decision");
  badge.className = `badge ${now}`;
  badge.textContent = now === one.decision ? now : `${now} at this setting (was ${one.decision})`;
}

function renderPicture(one) {
  const image = at("case-image"), gone = isForgotten(one);
  image.hidden = gone;
  at("no-image").hidden = !gone;
  at("saliency").disabled = gone;
  image.alt = gone ? "" : `Image of the case, called ${one.predicted_class}`;
  if (gone) image.removeAttribute("src");
  else image.src = `cases/${one.id}/thumbnail`;
}

function renderShares(one) {
  const shares = Object.entries(one.probabilities).sort((a, b) => (b[1] ?? 0) - (a[1] ?? 0));
  at("shares").replaceChildren(...shares.map(([name, share]) => {
    const line = element("li", name === one.predicted_class ? "chosen" : "");
    const track = element("span", "track"), fill = element("span", "fill");
    track.setAttribute("aria-hidden", "true");
    fill.style.width = `${100 * (share ?? 0)}%`;
    track.append(fill);
    line.append(element("span", "label", name), element("span", "value", percent(share)), track);
    return line;
  }));
}

function renderFacts(one) {
  const facts = {
    "probability of error": percent(one.error_probability),
    "expected loss": one.expected_loss == null ? null : `${one.expected_loss.toFixed(2)} nats`,
    "as familiar (p)": one.foreign_p_value?.toPrecision(2),
    "score": one.score?.toPrecision(3),
    "received": new Date(one.received).toLocaleString(),
  };
  const known = Object.entries(facts).filter(([, value]) => value != null);
  at("case-facts").replaceChildren(...known.map(([name, value]) => {
    const line = element("div");
    line.append(element("dt", "", name), element("dd", "", value));
    return line;
  }));
}

async function loadHistory(id) {
  const found = await ask(`cases/${id}`).catch(() => null);
  if (found && state.selected === id) renderHistory(found.reviews);
}

function renderHistory(reviews) {
  at("history").replaceChildren(...reviews.toReversed().map((one) => {
    const who = one.reviewer ? `${one.reviewer}, ` : "";
    const verdict = one.verdict === "agree" ? "agreed" : "overrode";
    const note = one.note ? `\n${one.note}` : "";
    const when = new Date(one.reviewed_at).toLocaleString();
    return element("li", "", `${who}${when}: ${verdict}, ${one.final_class}${note}`);
  }));
}

// ---------------------------------------------------------------- where it looks

function hideHeat() {
  at("heat").hidden = true;
  at("saliency").setAttribute("aria-pressed", "false");
  at("saliency-says").textContent = "";
}

async function toggleHeat() {
  const one = selectedCase();
  if (!one || at("saliency").disabled) return;
  if (!at("heat").hidden) return hideHeat();
  at("saliency-says").textContent = "covering one part after another …";
  try {
    const found = await ask(`cases/${one.id}/saliency`);
    if (state.selected === one.id) drawHeat(found);
  } catch (error) {
    at("saliency-says").textContent = error.message;
  }
}

function drawHeat({ drops, predicted_class: name }) {
  const size = drops.length, most = Math.max(...drops.flat());
  const cells = new OffscreenCanvas(size, size), pen = cells.getContext("2d");
  drops.forEach((row, y) => row.forEach((drop, x) => {
    const strength = most > 0 ? Math.max(0, drop) / most : 0;
    pen.fillStyle = `hsl(${50 - 50 * strength} 100% 50% / ${strength})`;
    pen.fillRect(x, y, 1, 1);
  }));
  const heat = at("heat");
  heat.width = heat.height = 256;
  const paint = heat.getContext("2d");
  paint.imageSmoothingQuality = "high";
  paint.drawImage(cells, 0, 0, 256, 256);
  heat.hidden = false;
  at("saliency").setAttribute("aria-pressed", "true");
  at("saliency-says").textContent = most > 0.005
    ? `Covered where it is reddest, ${name} loses ${percent(most)}.`
    : "No single part decides: covering any changes little.";
}

// ---------------------------------------------------------------- reviews

const picking = () => !at("classes").hidden;

function showClasses(open) {
  const one = selectedCase();
  at("classes").hidden = !open || !one;
  at("override").setAttribute("aria-expanded", !at("classes").hidden);
  if (at("classes").hidden) return;
  at("classes").replaceChildren(...Object.keys(one.probabilities).map((name, index) => {
    const button = element("button", "quiet");
    button.type = "button";
    if (index < 9) button.append(element("kbd", "", index + 1), " ");
    button.append(name);
    button.addEventListener("click", () => review({ verdict: "override", class: name }));
    return button;
  }));
  at("classes").firstElementChild.focus();
}

async function review(verdict) {
  const one = selectedCase();
  if (!one) return;
  const here = state.shown.findIndex((other) => other.id === one.id);
  const remark = { ...verdict, note: at("note").value, reviewer: at("reviewer").value };
  try {
    const saved = await ask(`cases/${one.id}/review`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(remark),
    });
    take(saved);
    say(`${saved.review.final_class} is saved for ${one.name}.`);
    afterReview(one.id, here);
  } catch (error) {
    complain(error);
  }
}

// On to the next one, also where the filter takes away what was just reviewed.
function afterReview(id, position) {
  renderAll();
  const stays = state.shown.some((one) => one.id === id);
  const next = state.shown[position + (stays ? 1 : 0)] ?? state.shown.at(-1);
  showClasses(false);
  if (next && next.id !== id) select(next.id);
  else renderCase();
  if (!isNarrow()) at("list").focus({ preventScroll: true });
}

// ---------------------------------------------------------------- the setting

function renderSetting() {
  const { calibration, target } = state;
  if (!calibration) return;
  const { saved } = calibration;
  const usable = calibration.settings.length > 0;
  at("setting-body").hidden = !usable;
  at("setting-why").hidden = usable;
  at("setting-why").textContent = calibration.why_not ?? "";
  const policy = saved ? `at most ${percent(saved.max_error)} wrong` : "no policy";
  at("setting-now").textContent = target == null
    ? `saved policy: ${policy}` : `trying ${percent(target)}; the saved policy still decides`;
  at("back-to-policy").disabled = target == null;
  if (!usable) return;
  const aim = target ?? saved.max_error;
  const setting = target == null ? savedSetting() : settingFor(target);
  at("target").value = 100 * aim;
  at("target-text").textContent = percent(aim);
  at("target").setAttribute("aria-valuetext", spoken(aim, setting));
  at("fact-coverage").textContent = percent(setting?.coverage ?? 0, 0);
  at("fact-error").textContent = percent(setting?.error);
  at("fact-bound").textContent = setting ? percent(setting.bound) : "–";
  at("setting-note").textContent = noteOn(setting);
  at("command").textContent = calibration.command.replace("{max_error}", Number(aim.toFixed(4)));
  drawCurve(aim, setting);
}

function savedSetting() {
  const { saved, settings } = state.calibration;
  if (!saved.accepts) return null;
  return settings.find((one) => one.threshold === saved.threshold) ?? null;
}

function spoken(aim, setting) {
  if (!setting) return `${percent(aim)}: nothing could be accepted`;
  return `${percent(aim)}: accepts ${percent(setting.coverage, 0)}, at most `
    + `${percent(setting.bound)} of these wrong`;
}

function noteOn(setting) {
  const { confidence, cases, saved } = state.calibration;
  const classes = saved.class_promises.length
    ? ` Promises for ${saved.class_promises.join(", ")} are not part of this.` : "";
  const basis = `With a confidence of ${percent(confidence, 0)}, the bounds hold for all settings `
    + `at once, for cases like the ${cases} of the calibration.`;
  if (!setting) return `No setting is within this bound: every answer would be deferred.${classes}`;
  return `${setting.wrong} of ${setting.accepted} accepted calibration cases are wrong. `
    + basis + classes;
}

function drawCurve(aim, setting) {
  const { settings } = state.calibration;
  const judged = settings.filter((one) => one.accepted > 0);
  const top = Math.min(1, Math.max(0.1, aim * 1.2, ...judged.map((one) => one.bound).slice(-30)));
  const x = (coverage) => 34 + 276 * coverage, y = (error) => 100 - 90 * Math.min(1, error / top);
  const path = (value) =>
    judged.map((one, index) => `${index ? "L" : "M"}${x(one.coverage)} ${y(value(one))}`).join("");
  const parts = [
    draw("path", { class: "axis", d: "M34 10V100H310" }),
    draw("line", { class: "aim", x1: 34, x2: 310, y1: y(aim), y2: y(aim) }),
    draw("path", { class: "bound", d: path((one) => one.bound) }),
    draw("path", { class: "error", d: path((one) => one.error) }),
    label(30, 14, percent(top, 0), "end"), label(30, 103, "0", "end"),
    label(34, 115, "0"), label(310, 115, "100 % accepted", "end"),
    ...named(judged, x, y),
  ];
  if (setting) {
    parts.push(draw("line", { class: "at", x1: x(setting.coverage), x2: x(setting.coverage), y1: 10, y2: 100 }));
    for (const value of [setting.bound, setting.error]) {
      parts.push(draw("circle", { class: "dot", cx: x(setting.coverage), cy: y(value), r: 3.5 }));
    }
  }
  at("curve").replaceChildren(...parts);
  at("curve-says").textContent =
    "Share of wrong answers among the accepted: observed, and at most, by how many are accepted.";
}

function named(judged, x, y) {
  const last = judged.at(-1);
  if (!last) return [];
  return [
    label(x(last.coverage) - 2, y(last.bound) - 6, "at most", "end"),
    label(x(last.coverage) - 2, y(last.error) + 13, "observed", "end"),
  ];
}

function label(x, y, text, anchor = "start") {
  const made = draw("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}

function draw(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function setTarget(target) {
  state.target = target;
  refresh();
  const one = selectedCase();
  if (one) requestAnimationFrame(() => renderOutcome(one));
}

// ---------------------------------------------------------------- drift

async function lookForDrift() {
  const found = await ask("drift").catch(() => null);
  if (!found) return;
  at("drift").hidden = !found.alarm;
  at("drift-summary").textContent = found.summary;
  const loud = found.tests.filter((one) => one.since);
  at("drift-tests").replaceChildren(...loud.map((one) => element("li", "", inWords(one))));
  const chance = percent(found.false_alarms, 0);
  at("drift-quiet").textContent = found.alarm ? "" : `${found.summary} ${found.cases} different `
    + `images were tested; false alarms in the life of a policy: at most ${chance}.`;
  if (!found.complete) setTimeout(lookForDrift, 100);
}

function inWords(test) {
  const since = new Date(test.since).toLocaleString();
  const evidence = test.highest > 1e6 ? "over a million" : Math.round(test.highest);
  return `${test.sentence} Alarm since ${since} (evidence ${evidence} to 1).`;
}

// ---------------------------------------------------------------- sending images

const sending = { files: [], sent: 0, failed: [], running: false, stopped: false };

async function send(files) {
  const images = files.filter((file) => !file.name.startsWith("."));
  if (!images.length) return;
  sending.files.push(...images);
  renderSending();
  if (sending.running) return;
  Object.assign(sending, { running: true, stopped: false, failed: [] });
  await Promise.all([sendOn(), sendOn()]);
  say(`${sending.sent} images answered, ${sending.failed.length} failed.`);
  Object.assign(sending, { files: [], sent: 0, running: false });
  renderSending();
  lookForDrift();
}

let nextFile = 0;
async function sendOn() {
  while (nextFile < sending.files.length && !sending.stopped) {
    const some = sending.files.slice(nextFile, nextFile + together());
    nextFile += some.length;
    await sendSome(some, 0);
  }
  if (sending.stopped || nextFile >= sending.files.length) nextFile = sending.files.length;
}

const together = () => Math.min(SENT_AT_ONCE, state.model?.limits.max_files ?? SENT_AT_ONCE);

async function sendSome(files, attempt) {
  const body = new FormData();
  for (const file of files) body.append("files", file, file.webkitRelativePath || file.name);
  try {
    const { results } = await ask("decisions", { method: "POST", body });
    settle(files, results);
  } catch (error) {
    await afterFailure(files, error, attempt);
  }
}

async function afterFailure(files, error, attempt) {
  if ([429, 503].includes(error.status) && attempt < RETRIES && !sending.stopped) {
    await new Promise((resolve) => setTimeout(resolve, 1000 * (Number(error.wait) || 1)));
    return sendSome(files, attempt + 1);
  }
  if (error.content?.results) return settle(files, error.content.results);
  if (error.status === 413 && files.length > 1) { // each alone may be small enough
    for (const file of files) await sendSome([file], attempt);
    return undefined;
  }
  return settle(files, files.map(({ name }) => ({ name, problem: { detail: error.message } })));
}

function settle(files, results) {
  for (const { name, case: one, problem } of results) {
    if (one) {
      take(one);
      state.total += 1;
    } else sending.failed.push(`${name}: ${problem?.detail ?? "not answered"}`);
  }
  sending.sent += files.length;
  renderSending();
  refresh();
}

function renderSending() {
  const { files, sent, failed, running } = sending;
  at("sending").hidden = !files.length;
  at("progress").max = Math.max(1, files.length);
  at("progress").value = sent;
  at("progress-text").textContent = `${sent} of ${files.length}`;
  at("failures").hidden = !failed.length;
  at("failures-title").textContent = `${failed.length} could not be answered`;
  at("failures-list").replaceChildren(...failed.slice(0, 100).map((text) => element("li", "", text)));
  if (!running && !files.length) nextFile = 0;
}

async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map(filesIn))).flat();
}

async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((done, fail) => { entry.file(done, fail); })];
  const reader = entry.createReader(), found = [];
  for (;;) { // a reader gives at most a hundred at once
    const some = await new Promise((done, fail) => { reader.readEntries(done, fail); });
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map(filesIn))).flat();
}

// ---------------------------------------------------------------- what a reload keeps

function remember() {
  if (!state.ready) return;
  const kept = new URLSearchParams();
  if (state.decisions.size) kept.set("show", [...state.decisions].sort().join("."));
  if (state.reviewed !== "all") kept.set("reviewed", state.reviewed);
  if (state.order !== "error") kept.set("order", state.order);
  if (state.target != null) kept.set("target", Number(state.target.toFixed(4)));
  if (state.selected) kept.set("case", state.selected);
  if (document.body.dataset.view === "case") kept.set("view", "case");
  const hash = kept.size ? `#${kept}` : " ";
  if (hash.trim() !== location.hash) history.replaceState(null, "", hash);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const target = Number.parseFloat(kept.get("target"));
  state.decisions = new Set((kept.get("show") ?? "").split(".").filter((one) => OUTCOMES.includes(one)));
  state.reviewed = ["yes", "no"].includes(kept.get("reviewed")) ? kept.get("reviewed") : "all";
  state.order = kept.get("order") in ORDERS ? kept.get("order") : "error";
  state.target = target > 0 && target < 1 ? target : null;
  state.selected = /^[0-9a-f]{32}$/.test(kept.get("case")) ? kept.get("case") : null;
  document.body.dataset.view = kept.get("view") === "case" && state.selected ? "case" : "list";
  for (const box of document.getElementsByName("decision")) box.checked = state.decisions.has(box.value);
  at("reviewed").value = state.reviewed;
  at("order").value = state.order;
  at("setting").open = state.target != null;
}

function local(key, value) {
  try {
    if (value === undefined) return localStorage.getItem(key) ?? "";
    localStorage.setItem(key, value);
  } catch { /* a browser may keep nothing: then nothing is kept */ }
  return "";
}

// ---------------------------------------------------------------- keys, and the rest

const KEYS = {
  j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  Home: () => move(-Infinity), End: () => move(Infinity),
  Enter: () => { if (selectedCase()) select(state.selected, { open: true }); },
  a: () => review({ verdict: "agree" }), o: () => showClasses(!picking()),
  n: () => { if (selectedCase()) at("note").focus(); },
  s: toggleHeat, "?": () => at("help").showModal(),
};
const MOVES = ["ArrowDown", "ArrowUp", "Home", "End", "Enter"]; // which controls know themselves

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || at("help").open) return;
  const { target, key } = event;
  const writes = target.matches("textarea, input:not([type]), select");
  if (key === "Escape") return leave(writes, target);
  if (writes || (MOVES.includes(key) && !target.matches("body, #list, #detail"))) return undefined;
  if (picking() && /^[1-9]$/.test(key)) at("classes").children[key - 1]?.click();
  else if (Object.hasOwn(KEYS, key)) KEYS[key]();
  else return undefined;
  event.preventDefault();
  return undefined;
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
  on("case-image", "error", () => {
    const one = selectedCase();
    if (!one) return;
    forget(one);
    renderPicture(one);
  });
  on("back", "click", () => leave(false));
  on("agree", "click", () => review({ verdict: "agree" }));
  on("override", "click", () => showClasses(!picking()));
  on("review", "submit", (event) => event.preventDefault());
  on("reviewer", "change", () => local("misgiving-reviewer", at("reviewer").value));
  on("saliency", "click", toggleHeat);
  on("open-help", "click", () => at("help").showModal());
  on("target", "input", () => setTarget(at("target").valueAsNumber / 100));
  on("back-to-policy", "click", () => setTarget(null));
  on("stop", "click", () => { sending.stopped = true; });
  on("choose-files", "click", () => at("files").click());
  on("choose-folder", "click", () => at("folder").click());
  for (const id of ["files", "folder"]) {
    on(id, "change", () => { send([...at(id).files]); at(id).value = ""; });
  }
  listenToFilters(on);
  listenToDrops();
  addEventListener("resize", () => renderRows());
  addEventListener("hashchange", () => { recall(); renderAll(); renderCase(); });
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

function again() {
  at("list").scrollTop = 0;
  renderAll();
  say(at("shown").textContent);
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
    send(await filesOf(event.dataTransfer));
  });
}

async function start() {
  at("reviewer").value = local("misgiving-reviewer");
  recall();
  listen();
  try {
    [state.model, state.calibration] = await Promise.all([ask("model"), ask("calibration")]);
    at("notice").textContent = state.model.notice;
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
}

start();
