// What is known of a case besides its image: what its sender gave, and other images of its group.

import { ask } from "./api.js";
import { at, element, terms } from "./dom.js";
import { emit, state } from "./state.js";

export function renderContext(one) {
  const given = Object.entries(one.metadata ?? {});
  at("metadata").hidden = !given.length;
  at("metadata").replaceChildren(...terms(given.map(([name, value]) =>
    [name, typeof value === "object" ? JSON.stringify(value) : String(value)])));
  at("group").hidden = true;
}

export async function showGroup(one) {
  if (!one?.group) return;
  const found = await ask(`cases?order=newest&limit=20&group=${encodeURIComponent(one.group)}`).catch(() => null);
  const others = (found?.cases ?? []).filter(({ id }) => id !== one.id);
  if (state.selected !== one.id || !others.length) return;
  at("group").hidden = false;
  at("group-images").replaceChildren(...others.map(({ id, name }) => {
    const open = element("button", "quiet"), image = new Image(48, 48);
    open.type = "button";
    open.title = image.alt = name;
    image.addEventListener("error", () => { open.textContent = name; });
    image.src = `cases/${id}/thumbnail`;
    open.append(image);
    open.addEventListener("click", () => emit("open", id));
    return open;
  }));
}
