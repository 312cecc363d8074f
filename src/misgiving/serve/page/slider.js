// The preview of another target error rate; it does not change the policy.

import { at, atMost, percent } from "./dom.js";
import { operatingPointFor } from "./outcomes.js";
import { emit, inStore, state } from "./state.js";

const SVG = "http://www.w3.org/2000/svg";

export function renderSlider() {
  const { calibration, target } = state;
  if (!calibration) return;
  const { policy } = calibration;
  const usable = calibration.operating_points.length > 0;
  at("setting-body").hidden = !usable;
  at("setting-why").hidden = usable;
  at("setting-why").textContent = calibration.unavailable ?? "";
  at("setting-now").textContent = target == null
    ? describePolicy(policy) : `preview at ${percent(target)}; the saved policy still decides${onLoaded()}`;
  at("back-to-policy").disabled = target == null;
  if (!usable) return;
  const aim = target ?? policy.max_error; // null: the policy has no target for the accepted images
  const point = target == null ? savedPoint() : operatingPointFor(target);
  at("target").value = 100 * (aim ?? point?.bound ?? 0);
  at("target-text").textContent = percent(aim);
  at("target").setAttribute("aria-valuetext", spoken(aim, point));
  const isNone = target != null || !policy.accepts; // else the saved policy has another threshold
  at("fact-coverage").textContent = percent(point?.coverage ?? (isNone ? 0 : null), 0);
  at("fact-error").textContent = percent(point?.error);
  at("fact-bound").textContent = point ? boundOf(point) : "–";
  at("setting-note").textContent = explain(point);
  at("command").textContent = calibration.command
    .replace("{max_error}", aim == null ? "TARGET" : Number(aim.toFixed(4)));
  drawCurve(aim, point);
}

function onLoaded() {
  const loaded = state.cases.size;
  return loaded < inStore() ? `; only the ${loaded} loaded cases show the preview` : "";
}

function describePolicy(policy) {
  if (!policy) return "no policy";
  return `saved policy: ${targetOf(policy)}${policy.accepts ? "" : "; no threshold meets this: all deferred"}`;
}

function targetOf({
  guarantee, max_error: error, max_silent_error: silent, max_deferred: deferred, for_each: column,
}) {
  const targets = [];
  const ofEach = column ? ` of each ${column.split(":")[0].replaceAll("_", " ")}` : "";
  if (error != null) targets.push(`at most ${atMost(error)} errors${ofEach}`);
  if (silent != null) targets.push(`at most ${atMost(silent)} of all cases accepted with a wrong answer`);
  if (deferred != null) targets.push(`at most ${atMost(deferred)} deferred`);
  const holds = {
    average: "on average",
    confident: `with ${percent(state.calibration.confidence, 0)} confidence`,
  }[guarantee];
  return `${holds} ${targets.join(" and ")}`;
}

function savedPoint() {
  const { policy, operating_points: points } = state.calibration;
  if (!policy.accepts) return null;
  return points.find((one) => one.threshold === policy.threshold) ?? null;
}

// Of the saved policy what it certifies, and of another operating point the bound that holds for all.
function boundOf(point) {
  const { guarantee, max_error: error } = state.calibration.policy;
  if (state.target != null || error == null) return atMost(point.bound);
  return `${atMost(error)}${guarantee === "average" ? " on average" : ""}`;
}

function spoken(aim, point) {
  const goal = aim == null ? "no target" : percent(aim);
  if (!point) return `${goal}: nothing could be accepted`;
  return `${goal}: accepts ${percent(point.coverage, 0)}, with at most `
    + `${boundOf(point)} errors`;
}

function explain(point) {
  const { confidence, cases, pool, policy } = state.calibration;
  const like = pool ? `the ${pool} cases of the pool` : `the ${cases} calibration cases`;
  const limits = policy.class_targets.length ? [`missed ${policy.class_targets.join(", ")}`] : [];
  if (policy.max_silent_error != null) limits.push("wrong answers among all cases");
  const omitted = limits.length ? ` Limits on ${limits.join(" and ")} are not part of the preview.` : "";
  const own = state.target == null && point
    ? ` The saved policy itself: ${targetOf(policy)}.` : "";
  const basis = `With ${percent(confidence, 0)} confidence, the bounds hold for all operating points `
    + `at once, for cases like ${like}.`;
  const rest = `${omitted} ${policy.naming}`;
  if (!point && state.target == null) return `${policy.accepts ? "" : "The saved policy accepts no answer."}${rest}`.trimStart();
  if (!point) return `No operating point has so low a bound: everything would be deferred.${rest}`;
  return `${point.wrong} of ${point.accepted} accepted calibration cases are wrong. `
    + basis + own + rest;
}

function drawCurve(aim, point) {
  const points = state.calibration.operating_points.filter((one) => one.accepted > 0);
  const top = Math.min(1, Math.max(0.1, ...points.filter((one) => one.coverage > 0.1).map((one) => one.bound)));
  const x = (coverage) => 34 + 276 * coverage, y = (error) => 100 - 90 * error / top;
  const path = (value) =>
    points.map((one, index) => `${index ? "L" : "M"}${x(one.coverage)} ${y(value(one))}`).join("");
  const parts = [
    draw("path", { class: "axis", d: "M34 10V100H310" }),
    clip(
      ...(aim == null ? [] : [draw("line", { class: "aim", x1: 34, x2: 310, y1: y(aim), y2: y(aim) })]),
      draw("path", { class: "bound", d: path((one) => one.bound) }),
      draw("path", { class: "error", d: path((one) => one.error) }),
    ),
    label(30, 14, percent(top, 0), "end"), label(30, 103, "0", "end"),
    label(34, 115, "0"), label(310, 115, "100 % accepted", "end"),
  ];
  if (point) {
    parts.push(draw("line", { class: "at", x1: x(point.coverage), x2: x(point.coverage), y1: 10, y2: 100 }));
    for (const value of [point.bound, point.error].filter((each) => each <= top)) {
      parts.push(draw("circle", { class: "dot", cx: x(point.coverage), cy: y(value), r: 3.5 }));
    }
  }
  at("curve").replaceChildren(...parts);
}

// Values above the scale are cut off, not drawn at its end.
const clip = (...parts) =>
  draw("svg", { x: 0, y: 8, width: 320, height: 94, viewBox: "0 8 320 94" }, ...parts);

const label = (x, y, text, anchor = "start") => draw("text", { x, y, "text-anchor": anchor }, text);

function draw(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function setTarget(target) {
  state.target = target;
  emit("change");
  emit("target");
}
