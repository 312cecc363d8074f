// Sends images to the service.

import { ask, waitFor } from "./api.js";
import { lookForNew } from "./cases.js";
import { at, element, say } from "./dom.js";
import { lookForDrift } from "./drift.js";
import { emit, state, take } from "./state.js";
import { isBack } from "./thumbnails.js";

const SENT_AT_ONCE = 8; // files of one request
const RETRIES = 30;

export const sending = { files: [], next: 0, sent: 0, failed: [], known: [], run: null, stopped: false };

// Files with the names to show; those of a folder include its path.
export const chosen = (files) =>
  [...files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));

export async function send(files) {
  const images = files.filter(({ name }) => !name.split("/").some((part) => part.startsWith(".")));
  if (!images.length) return;
  while (sending.stopped) await sending.run; // first finish what was stopped
  sending.files.push(...images);
  sending.run ??= sendAll();
  renderSending();
}

export function stopSending() {
  sending.stopped = Boolean(sending.run);
}

async function sendAll() {
  sending.failed = [];
  sending.known = [];
  await Promise.all([sendOn(), sendOn()]);
  const { files, next, sent, failed, known } = sending, left = files.length - next;
  say(`${sent - failed.length} images decided, ${failed.length} failed`
    + `${left ? `, ${left} not sent` : ""}. ${sentBefore(known)}`.trimEnd());
  Object.assign(sending, { files: [], next: 0, sent: 0, run: null, stopped: false });
  renderSending();
  lookForDrift();
  lookForNew().then(lookForNew); // one that had begun may have missed the last
}

async function sendOn() {
  while (sending.next < sending.files.length && !sending.stopped) {
    const some = sending.files.slice(sending.next, sending.next + together());
    sending.next += some.length;
    await sendSome(some, 0);
  }
}

const together = () => Math.min(SENT_AT_ONCE, state.model?.limits.max_files ?? SENT_AT_ONCE);

// What the service was too busy for is sent again; where all together are too large, each file alone.
async function sendSome(files, attempt) {
  const body = new FormData();
  for (const { file, name } of files) body.append("files", file, name);
  let results = [], seconds = 1;
  try {
    ({ results } = await ask("decisions", { method: "POST", body }));
  } catch (error) {
    if (error.status === 413 && files.length > 1) {
      for (const file of files) await sendSome([file], attempt);
      return;
    }
    const { content, status, wait, message: detail } = error;
    results = content?.results ?? files.map(({ name }) => ({ name, problem: { status, detail } }));
    seconds = Number(wait) || 1;
  }
  const waits = results.map(({ problem }) =>
    [429, 503].includes(problem?.status) && attempt < RETRIES && !sending.stopped);
  settle(files.filter((_, index) => !waits[index]), results.filter((_, index) => !waits[index]), attempt);
  if (!waits.includes(true)) return;
  await waitFor(1000 * seconds);
  await sendSome(files.filter((_, index) => waits[index]), attempt + 1);
}

function settle(files, results, attempt) {
  const audits = state.model?.audits; // the list has a blind case without the decision for its sender
  for (const { name, case: one, known, problem } of results) {
    if (one) {
      if (known && !attempt) { // not a file that was stored although the answer came too late
        sending.known.push({ name, as: one.name });
        isBack(one.id);
      } else if (!audits && !state.cases.has(one.id)) state.counts[one.decision] += 1;
      if (!audits) take(one);
    } else sending.failed.push(named(name, problem?.detail ?? "no decision"));
  }
  sending.sent += files.length;
  renderSending();
  if (audits) lookForNew();
  emit("change");
}

// The same file is one case, whatever its name.
function sentBefore(known) {
  if (!known.length) return "";
  const [{ name, as }] = known;
  if (known.length > 1) return `${known.length} files were decided before: each stays one case.`;
  return `${name} is the same file as ${as}: it stays one case.`;
}

const named = (name, detail) => (detail.startsWith(`${name}: `) ? detail : `${name}: ${detail}`);

function renderSending() {
  const { files, sent, failed, known } = sending;
  at("known").hidden = !known.length;
  at("known").textContent = sentBefore(known);
  at("sending").hidden = !files.length;
  at("progress").max = Math.max(1, files.length);
  at("progress").value = sent;
  at("progress-text").textContent = `${sent} of ${files.length}`;
  at("failures").hidden = !failed.length;
  at("failures-title").textContent = `${failed.length} failed`;
  at("failures-list").replaceChildren(...failed.slice(0, 100).map((text) => element("li", "", text)));
}

export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  return (await Promise.all(entries.map(filesIn))).flat();
}

async function filesIn(entry) {
  if (entry.isFile) {
    const file = await new Promise((done, fail) => { entry.file(done, fail); });
    return [{ file, name: entry.fullPath.replace(/^\//, "") }]; // the file itself does not know its folder
  }
  const reader = entry.createReader(), found = [];
  for (;;) { // a reader returns at most a hundred entries at once
    const some = await new Promise((done, fail) => { reader.readEntries(done, fail); });
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map(filesIn))).flat();
}
