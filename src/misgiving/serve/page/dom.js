// Elements, messages and numbers. Text from outside is shown as text, never as markup.

export const at = (id) => document.getElementById(id);
export const say = (text) => { at("status").textContent = text; };
export const isNarrow = () => matchMedia("(max-width: 820px)").matches;

// Children are elements or texts; an empty one is left out.
export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.filter((child) => child != null && child !== ""));
  return made;
}

// Lines of a list of terms.
export const terms = (pairs) => pairs.map(([name, said]) =>
  element("div", "", element("dt", "", name), element("dd", "", said)));

let problemTimer = 0;
export function complain(error) {
  at("problem").textContent = error.message;
  at("problem").hidden = false;
  clearTimeout(problemTimer);
  problemTimer = setTimeout(() => { at("problem").hidden = true; }, 8000);
}

// Never 0 or 100 for a value that is only close to it.
export function percent(share, digits = 1) {
  if (share == null) return "–";
  const least = 10 ** -digits, text = (100 * share).toFixed(digits);
  if (share > 0 && Number(text) === 0) return `<${least.toFixed(digits)} %`;
  if (share < 1 && Number(text) === 100) return `>${(100 - least).toFixed(digits)} %`;
  return `${text} %`;
}

// An upper bound is rounded up.
export function atMost(share, digits = 1) {
  const scale = 10 ** digits, dust = 1e-9; // rounding error of binary fractions
  return `${(Math.ceil(100 * scale * share - dust) / scale).toFixed(digits)} %`;
}
