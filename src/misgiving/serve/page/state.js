// The state of the page, and the events that tell its modules about changes.

export const OUTCOMES = ["ood", "defer", "accept"];

export const state = {
  cases: new Map(), counts: { accept: 0, defer: 0, ood: 0 }, rest: 0, shown: [], selected: null, target: null,
  decisions: new Set(), reviewed: "no", order: "error", predicted: "", search: "",
  layout: "list", marked: new Set(), mine: new Set(), seen: new Map(), conflicts: new Map(), tally: null,
  model: null, calibration: null, ready: false, saving: null,
};

// Keys to read open no numbers that would tell which blind cases are accepted.
export const isReader = () => state.model?.role === "read";

// change: the worklist is outdated. target: another target is tried. arrivals: cases came from
// elsewhere. outside-review: someone else reviewed a case. choice: the reviewer chose what is right.
// filters: other cases are wanted.
const events = new EventTarget();
export const on = (name, act) => events.addEventListener(name, ({ detail }) => act(detail));
export const emit = (name, detail) => events.dispatchEvent(new CustomEvent(name, { detail }));

// Responses may overtake each other: a known review is not replaced by an older one.
export function take(given) {
  const one = given.blind ? asDeferred(given) : given;
  const known = state.cases.get(one.id);
  const [before, now] = [known, one].map((each) => each?.review?.reviewed_at ?? "");
  if (before > now) return;
  const reviews = one.reviews ?? (before === now ? known?.reviews : undefined);
  state.cases.set(one.id, reviews ? { ...one, reviews } : one);
}

const FIRST_PLACE = 3; // before all error probabilities, as the service sorts

// The reviewer sees a case, with its last review; a review by someone else after that is a conflict.
export const see = (one) => state.seen.set(one.id, one.review?.reviewed_at ?? null);

// A blind case comes first, at a random place; it counts as deferred.
const asDeferred = (one) => ({ ...one, decision: "defer", reviewed: false, predicted_class: "", reason: "",
  error_probability: FIRST_PLACE + one.position, probabilities: Object.fromEntries(one.classes.map((name) => [name, null])) });

export const inStore = () => Object.values(state.counts).reduce((sum, count) => sum + count, 0);
export const selectedCase = () => state.cases.get(state.selected) ?? null;
