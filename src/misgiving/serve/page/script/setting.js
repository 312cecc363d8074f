// The error that is tolerated, and what it would mean; it changes no policy.

import { settingFor } from "./deciding.js";
import { renderOutcome } from "./detail.js";
import { loadOthers } from "./loading.js";
import { at, atMost, inStore, percent, selectedCase, state } from "./shared.js";
import { refresh } from "./worklist.js";

const SVG = "http://www.w3.org/2000/svg";

export function renderSetting() {
  const { calibration, target } = state;
  if (!calibration) return;
  const { policy: saved } = calibration;
  const usable = calibration.operating_points.length > 0;
  at("setting-body").hidden = !usable;
  at("setting-why").hidden = usable;
  at("setting-why").textContent = calibration.unavailable ?? "";
  at("setting-now").textContent = target == null
    ? savedInWords(saved) : `trying ${percent(target)}; the saved policy still decides${onLoaded()}`;
  at("back-to-policy").disabled = target == null;
  if (!usable) return;
  const aim = target ?? saved.max_error;
  const setting = target == null ? savedSetting() : settingFor(target);
  at("target").value = 100 * aim;
  at("target-text").textContent = percent(aim);
  at("target").setAttribute("aria-valuetext", spoken(aim, setting));
  at("fact-coverage").textContent = percent(setting?.coverage ?? 0, 0);
  at("fact-error").textContent = percent(setting?.error);
  at("fact-bound").textContent = setting ? atMost(setting.bound) : "–";
  at("setting-note").textContent = noteOn(setting);
  at("command").textContent = calibration.command.replace("{max_error}", Number(aim.toFixed(4)));
  drawCurve(aim, setting);
}

function onLoaded() {
  const loaded = state.cases.size;
  return loaded < inStore() ? `; only the ${loaded} cases that are loaded are marked anew` : "";
}

function savedInWords(saved) {
  if (!saved) return "no policy";
  const promised = `at most ${atMost(saved.max_error)} wrong`;
  return saved.accepts ? `saved policy: ${promised}` : `${promised} cannot be promised: all deferred`;
}

function savedSetting() {
  const { policy: saved, operating_points: settings } = state.calibration;
  if (!saved.accepts) return null;
  return settings.find((one) => one.threshold === saved.threshold) ?? null;
}

function spoken(aim, setting) {
  if (!setting) return `${percent(aim)}: nothing could be accepted`;
  return `${percent(aim)}: accepts ${percent(setting.coverage, 0)}, at most `
    + `${atMost(setting.bound)} of these wrong`;
}

function noteOn(setting) {
  const { confidence, cases, policy: saved } = state.calibration;
  const classes = saved.class_targets.length
    ? ` Promises for ${saved.class_targets.join(", ")} are not part of this.` : "";
  const own = state.target == null && setting
    ? ` This one, calibrated by itself, is certified for at most ${atMost(saved.max_error)}.` : "";
  const basis = `With a confidence of ${percent(confidence, 0)}, the bounds hold for all settings `
    + `at once, for cases like the ${cases} of the calibration.`;
  if (!setting) return `No setting is within this bound: every answer would be deferred.${classes}`;
  return `${setting.wrong} of ${setting.accepted} accepted calibration cases are wrong. `
    + basis + own + classes;
}

function drawCurve(aim, setting) {
  const { operating_points: settings } = state.calibration;
  const judged = settings.filter((one) => one.accepted > 0);
  const top = Math.min(1, Math.max(0.1, ...judged.filter((one) => one.coverage > 0.1).map((one) => one.bound)));
  const x = (coverage) => 34 + 276 * coverage, y = (error) => 100 - 90 * error / top;
  const path = (value) =>
    judged.map((one, index) => `${index ? "L" : "M"}${x(one.coverage)} ${y(value(one))}`).join("");
  const parts = [
    draw("path", { class: "axis", d: "M34 10V100H310" }),
    clip(
      draw("line", { class: "aim", x1: 34, x2: 310, y1: y(aim), y2: y(aim) }),
      draw("path", { class: "bound", d: path((one) => one.bound) }),
      draw("path", { class: "error", d: path((one) => one.error) }),
    ),
    label(30, 14, percent(top, 0), "end"), label(30, 103, "0", "end"),
    label(34, 115, "0"), label(310, 115, "100 % accepted", "end"),
  ];
  if (setting) {
    parts.push(draw("line", { class: "at", x1: x(setting.coverage), x2: x(setting.coverage), y1: 10, y2: 100 }));
    for (const value of [setting.bound, setting.error].filter((each) => each <= top)) {
      parts.push(draw("circle", { class: "dot", cx: x(setting.coverage), cy: y(value), r: 3.5 }));
    }
  }
  at("curve").replaceChildren(...parts);
}

// What is above the scale is left out, not drawn flat at its end.
function clip(...parts) {
  const plot = draw("svg", { x: 0, y: 8, width: 320, height: 94, viewBox: "0 8 320 94" });
  plot.append(...parts);
  return plot;
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

export function setTarget(target) {
  state.target = target;
  refresh();
  loadOthers();
  const one = selectedCase();
  if (one) requestAnimationFrame(() => renderOutcome(one));
}
