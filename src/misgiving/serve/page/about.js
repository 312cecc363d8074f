// The model, its card and its policy.

import { at, element } from "./dom.js";
import { state } from "./state.js";

export function openAbout() {
  if (!state.model) return;
  at("about").showModal();
  at("about").scrollTop = 0; // the browser scrolls to the button that it focuses
}

export function renderAbout() {
  const { card, policy, versions, model_fingerprint: model, policy_fingerprint: of } = state.model;
  const trained = card.architecture?.backbone && card.data?.name
    ? `${card.architecture.backbone}, trained on ${card.data.name}` : null;
  at("about-name").textContent = card.name ?? trained ?? "Model";
  const { what, limits, targets: _, ...rest } = card; // the targets are the policy's sentences
  const parts = [
    ["", what], ["Policy", policy ?? "This model has no policy: it defers every image."], ["Limits", limits],
    ["Model card", rest], ["Versions and fingerprints", { ...versions, model, policy: of }],
  ];
  at("about-facts").replaceChildren(...parts.filter(([, value]) => value).flatMap(([title, value]) => {
    const shown = draw(value);
    if (Array.isArray(value) || typeof value === "string") return title ? [element("h3", "", title), shown] : [shown];
    const fold = element("details", "fold");
    fold.append(element("summary", "", title), shown);
    return [fold];
  }));
}

function draw(value) {
  if (Array.isArray(value)) {
    const list = element("ul");
    list.append(...value.map((one) => element("li", "", typeof one === "object" ? JSON.stringify(one) : one.replaceAll("`", ""))));
    return list;
  }
  if (value === null || typeof value !== "object") return element("p", "", String(value));
  const list = element("dl", "small");
  list.append(...Object.entries(value).map(([name, one]) => {
    const line = element("div"), said = element("dd");
    if (one !== null && typeof one === "object" && !Array.isArray(one)) said.append(draw(one));
    else said.textContent = Array.isArray(one) ? one.join(", ") : String(one);
    line.append(element("dt", "", name.replaceAll("_", " ")), said);
    return line;
  }));
  return list;
}
