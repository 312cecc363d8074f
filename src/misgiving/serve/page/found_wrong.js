// Accepted answers that a reader found wrong, and who was told of them.

import { ask, asReader } from "./api.js";
import { at, complain, element, say } from "./dom.js";
import { answerOf } from "./outcomes.js";
import { emit, isReader, state } from "./state.js";

const FULL = 50; // answers in the list; the CSV has all
const STATES = { open: "tell whoever may have acted on it", contradicted: "readers disagree", withdrawn: "a slip", told: "told" };

let shown = ""; // a list that has not changed keeps the note that is being written

export async function lookForWrong() {
  if (isReader()) return;
  const found = await ask("found-wrong").catch(() => null);
  if (!found || JSON.stringify(found) === shown) return;
  shown = JSON.stringify(found);
  const { open, contradicted } = found.counts, all = found.answers.length;
  at("wrong").hidden = !all;
  at("wrong").classList.toggle("banner", open + contradicted > 0);
  at("wrong").classList.toggle("setting", !(open + contradicted));
  at("wrong-count").textContent = found.summary;
  at("wrong-list").replaceChildren(...found.answers.slice(0, FULL).map(lineOf));
  at("wrong-csv").href = asReader("found-wrong.csv");
  at("wrong-more").hidden = all <= FULL;
}

function lineOf(one) {
  const open = element("button", "quiet", one.name);
  open.type = "button";
  open.addEventListener("click", () => emit("open", one.id));
  const readings = [...new Set(one.read_as.map((name) => name ?? "none of these"))].join(" and ");
  const against = one.contradicted_by.length ? `, contradicted by ${one.contradicted_by.join(" and ")}` : "";
  const confirmed = one.read_as.length > 1 ? ", confirmed" : "";
  const line = element("li", "", open, ` accepted as ${answerOf(one)}, read as ${readings}${confirmed}${against}. `,
    element("b", "", `${one.state[0].toUpperCase()}${one.state.slice(1)}`), `: ${STATES[one.state]}.`,
    ...one.told.map(({ told_by: by, told_at: when, note }) =>
      element("p", "muted", `${by}, ${new Date(when).toLocaleString()}: told${note && `: ${note}`}`)));
  if (["open", "contradicted"].includes(one.state)) line.append(noteOn(one));
  return line;
}

function noteOn(one) {
  const form = element("form", "note-told"), note = element("input"), send = element("button", "quiet", "Mark as told");
  note.maxLength = 2000;
  note.placeholder = "Who was told, and how";
  note.setAttribute("aria-label", `Who was told of ${one.name}, and how`);
  form.append(note, send);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = { told_by: state.model?.key ?? at("reviewer").value.trim(), note: note.value.trim(), state: one.state };
    if (!body.told_by) return complain({ message: "Enter your name under \u201cReviewer\u201d of any case first." });
    const headers = { "Content-Type": "application/json" };
    const saved = await ask(asReader(`cases/${one.id}/told`), { method: "POST", headers, body: JSON.stringify(body) }).catch(complain);
    if (saved) say(`Noted: somebody was told of ${one.name}.`);
    return lookForWrong();
  });
  return form;
}
