// The model, its card and its policy.

import { at, element, terms } from "./dom.js";
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
    return [element("details", "fold", element("summary", "", title), shown)];
  }));
}

function draw(value) {
  if (Array.isArray(value)) {
    return element("ul", "", ...value.map((one) => element("li", "", typeof one === "object" ? JSON.stringify(one) : one.replaceAll("`", ""))));
  }
  if (value === null || typeof value !== "object") return element("p", "", String(value));
  return element("dl", "small", ...terms(Object.entries(value).map(([name, one]) => {
    const holds = one !== null && typeof one === "object" && !Array.isArray(one);
    return [name.replaceAll("_", " "), holds ? draw(one) : Array.isArray(one) ? one.join(", ") : String(one)];
  })));
}
