// Sorting by a click on a heading, values under the pointer, and folds that are open in print.
"use strict";

function columnOf(heading) {  // headings span rows and columns
  const taken = [];
  for (const [y, row] of [...heading.closest("thead").rows].entries()) {
    let x = 0;
    for (const cell of row.cells) {
      while (taken.some(([tx, ty]) => tx === x && ty === y)) x++;
      if (cell === heading) return x;
      for (let dy = 0; dy < cell.rowSpan; dy++)
        for (let dx = 0; dx < cell.colSpan; dx++) taken.push([x + dx, y + dy]);
      x += cell.colSpan;
    }
  }
}

function valueOf(row, column) {  // a heading of several rows is in the first of them alone
  const spanning = row.parentElement.rows[0].cells[0];
  const cells = spanning.rowSpan > 1 && row.cells[0] !== spanning ? [spanning, ...row.cells] : row.cells;
  const text = cells[column]?.firstChild?.data?.trim() ?? "";
  const number = parseFloat(text.replace("\u2212", "-").replace(/^[(+]+|,(?=\d{3})/g, ""));
  return { text, number };
}

function compare(a, b, sign) {  // what is not a number comes last, in either direction
  const [first, second] = [a, b].map((value) => Number.isNaN(value.number));
  if (first || second) return first && second ? sign * a.text.localeCompare(b.text) : first - second;
  return sign * (a.number - b.number);
}

function sort(heading) {
  const column = columnOf(heading), table = heading.closest("table");
  const descending = heading.ariaSort === "ascending";
  for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
  heading.ariaSort = descending ? "descending" : "ascending";
  const inOrder = (rows) => rows.map((row) => [valueOf(row, column), row])
    .sort((a, b) => compare(a[0], b[0], descending ? -1 : 1)).map(([, row]) => row);
  for (const body of table.tBodies) {
    const spanning = body.rows[0].cells[0], spans = spanning.rowSpan > 1, rows = inOrder([...body.rows]);
    if (spans) rows[0].prepend(spanning);
    body.append(...rows);
  }
  const first = inOrder([...table.tBodies].map((body) => body.rows[0]));
  table.append(...first.map((row) => row.parentElement));
}

for (const heading of document.querySelectorAll("thead th")) {
  if (heading.colSpan > 1 || !heading.textContent) continue;
  const button = document.createElement("button");
  button.append(...heading.childNodes);
  button.addEventListener("click", () => sort(heading));
  heading.append(button);
}

const tip = document.body.appendChild(document.createElement("div"));
tip.id = "tip";
tip.hidden = true;
for (const drawing of document.querySelectorAll("figure svg")) {
  const values = [...drawing.querySelectorAll(".value")];
  for (const value of values) {  // the words of all of them are shown by the tip alone
    value.words = value.textContent;
    value.replaceChildren();
  }
  const distance = (value, at) => Math.hypot(value.cx.baseVal.value - at.x, value.cy.baseVal.value - at.y);
  let near;
  const show = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
    near?.classList.remove("near");
    near = values.reduce((a, b) => (distance(b, at) < distance(a, at) ? b : a), values[0]);
    tip.hidden = !near || distance(near, at) > 14;
    if (tip.hidden) return;
    near.classList.add("near");
    tip.textContent = near.words;
    tip.style.left = `${Math.max(0, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
  };
  for (const kind of ["pointermove", "pointerdown"]) drawing.addEventListener(kind, show);
  drawing.addEventListener("pointerleave", () => {
    near?.classList.remove("near");
    tip.hidden = true;
  });
}

addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});

const sections = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    const link = document.querySelector(`nav a[href="#${target.id}"]`);
    if (link) link.ariaCurrent = isIntersecting ? "true" : null;
  }
}, { rootMargin: "-20% 0px -60% 0px" });
for (const section of document.querySelectorAll("section")) sections.observe(section);
