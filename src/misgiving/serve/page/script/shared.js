// What all parts of the page know, and how they ask the service. What comes from outside is shown
// as text, never as markup.

export const at = (id) => document.getElementById(id);
export const say = (text) => { at("status").textContent = text; };

// Neither 0 nor 100 is said of what only comes close to it.
export function percent(share, digits = 1) {
  if (share == null) return "–";
  const least = 10 ** -digits, text = (100 * share).toFixed(digits);
  if (share > 0 && Number(text) === 0) return `<${least.toFixed(digits)} %`;
  if (share < 1 && Number(text) === 100) return `>${(100 - least).toFixed(digits)} %`;
  return `${text} %`;
}

// A bound is rounded up, or it would promise more than holds.
export function atMost(share, digits = 1) {
  const scale = 10 ** digits, dust = 1e-9; // of binary fractions
  return `${(Math.ceil(100 * scale * share - dust) / scale).toFixed(digits)} %`;
}

export const state = {
  cases: new Map(), counts: { accept: 0, defer: 0, ood: 0 }, rest: 0, shown: [], selected: null, target: null,
  decisions: new Set(), reviewed: "all", order: "error",
  model: null, calibration: null, ready: false,
};

export async function ask(path, options) {
  const answer = await fetch(path, options).catch(() => null);
  if (!answer) throw new Error("The service does not answer. Is it running?");
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  const error = new Error(content.detail ?? `The service answers ${answer.status}.`);
  Object.assign(error, { status: answer.status, content, wait: answer.headers.get("Retry-After") });
  throw error;
}

export const waitFor = (milliseconds) =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

let problemTimer = 0;
export function complain(error) {
  at("problem").textContent = error.message;
  at("problem").hidden = false;
  clearTimeout(problemTimer);
  problemTimer = setTimeout(() => { at("problem").hidden = true; }, 8000);
}

// Answers may overtake each other: a review that is known is not forgotten.
export function take(one) {
  const known = state.cases.get(one.id);
  const [before, now] = [known, one].map((each) => each?.review?.reviewed_at ?? "");
  if (before > now) return;
  const reviews = one.reviews ?? (before === now ? known?.reviews : undefined);
  state.cases.set(one.id, reviews ? { ...one, reviews } : one);
}

export const inStore = () => Object.values(state.counts).reduce((sum, count) => sum + count, 0);

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text != null) made.textContent = text;
  return made;
}

export const selectedCase = () => state.cases.get(state.selected) ?? null;
export const isNarrow = () => matchMedia("(max-width: 820px)").matches;
export const OUTCOMES = ["ood", "defer", "accept"];
