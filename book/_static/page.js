// What the book's pages do in a browser: figures open large, wide formulas are set smaller, and tables of prose
// know the names of their columns, which a phone shows in each row.
"use strict";

// a tap shows a figure large, so that a phone's reader can move about in it; another tap, or Escape, closes it
document.addEventListener("click", (event) => {
  const figure = event.target.closest("article img");
  if (!figure || figure.closest("a")) return;
  const dialog = document.createElement("dialog");
  dialog.className = "large";
  dialog.setAttribute("aria-label", "The figure, large");
  dialog.append(figure.cloneNode());
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
});

const PROSE = 60; // characters of a cell that no column of a phone can hold

for (const table of document.querySelectorAll("article table.docutils")) {
  const names = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
  const rows = [...table.querySelectorAll("tbody tr")];
  if (names.length < 4 || !rows.some((row) => [...row.cells].some((cell) => cell.textContent.length > PROSE))) continue;
  table.classList.add("blocks");
  for (const row of rows) [...row.cells].forEach((cell, i) => names[i] && (cell.dataset.label = names[i]));
}

const SMALLEST = 0.6; // below that a formula scrolls

function room(place) {
  const style = getComputedStyle(place);
  return place.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
}

function fit() {
  for (const formula of document.querySelectorAll("article mjx-container")) {
    formula.dataset.size ??= formula.style.fontSize || "100%"; // MathJax's own, in per cent
    formula.style.fontSize = formula.dataset.size;
    const wide = Math.max(formula.scrollWidth, formula.getBoundingClientRect().width);
    const ratio = room(formula.closest("td, p, li, dd, div")) / wide;
    if (ratio < 1) formula.style.fontSize = `${0.97 * parseFloat(formula.dataset.size) * Math.max(ratio, SMALLEST)}%`;
  }
}

window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(fit));
window.addEventListener("resize", fit);
