// What a reviewer can say of a case: each class, or that none is right.

import { element, percent } from "./dom.js";
import { state } from "./state.js";

const OTHERS = [ // verdict, words, key
  ["none", "none of these", "x"], ["ungradable", "ungradable", "g"], ["unsure", "unsure", "d"],
];

export const longOf = (name) => state.model?.class_names[name] ?? "";

// In the order of the model: JavaScript sorts the keys of an object that look like numbers.
export function classesOf(one) {
  const rank = new Map((state.model?.classes ?? []).map((name, position) => [name, position]));
  const of = (name) => rank.get(name) ?? rank.size;
  return Object.keys(one.probabilities).sort((a, b) => of(a) - of(b));
}

export const wordsOf = ({ final_class: name, verdict }) =>
  name ?? OTHERS.find(([one]) => one === verdict)?.[1] ?? { withdraw: "taken back" }[verdict] ?? verdict;

// Classes that are digits are their own keys; otherwise the first nine are numbered.
function keyOf(name, index, names) {
  if (names.every((each) => /^[0-9]$/.test(each))) return name;
  return index < 9 ? String(index + 1) : null;
}

export function choiceOf(key, names) {
  const index = names.findIndex((name, position) => keyOf(name, position, names) === key);
  if (index >= 0) return { class: names[index] };
  const other = OTHERS.find(([, , its]) => its === key);
  return other ? { verdict: other[0] } : null;
}

// As the service takes it: to choose the model's class is to agree.
export function verdictOn(one, choice) {
  if (choice.class === undefined) return choice;
  return choice.class === one.predicted_class
    ? { verdict: "agree" } : { verdict: "override", class: choice.class };
}

export function classButtons(names, act, { shares = {}, model, final } = {}) {
  return names.map((name, index) => {
    const made = button(keyOf(name, index, names), name, () => act({ class: name }));
    if (name in shares) {
      made.append(element("span", "value", percent(shares[name], 0)));
      made.style.setProperty("--share", `${100 * (shares[name] ?? 0)}%`);
    }
    if (name === model) made.classList.add("chosen");
    if (final !== undefined) made.setAttribute("aria-pressed", name === final);
    return made;
  });
}

export const otherButtons = (act, final) => OTHERS.map(([verdict, words, key]) => {
  const made = button(key, words, () => act({ verdict }));
  if (final !== undefined) made.setAttribute("aria-pressed", verdict === final);
  return made;
});

function button(key, words, act) {
  const long = longOf(words);
  const made = element("button", "quiet", key && element("kbd", "", key), key && " ",
    element("span", "label", words), long && element("span", "long", long));
  made.type = "button";
  made.title = long ? `${words}: ${long}` : words;
  made.addEventListener("click", act);
  return made;
}
