// What the book's pages do in a browser: figures open large, what is too wide is set smaller, broken lines of code
// keep their indent, and tables of prose know the names of their columns, which a phone shows in each row.
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

// says so below each figure where it is small (book.css)
for (const figure of document.querySelectorAll("article img")) {
  if (!figure.closest("a")) figure.insertAdjacentHTML("afterend", '<span class="tap">tap to enlarge</span>');
}

// a table that no phone can hold has pictures, a name as long as a column, or four columns and prose
const LONG_NAME = /\S{26}/;
const PROSE = 45; // characters of a cell

for (const table of document.querySelectorAll("article table.docutils")) {
  const names = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
  const rows = [...table.querySelectorAll("tbody tr")];
  const prose = names.length > 3 && rows.some((row) => [...row.cells].some((cell) => cell.textContent.length > PROSE));
  const named = [...table.querySelectorAll("tbody code")].some((code) => LONG_NAME.test(code.textContent));
  if (!prose && !named && !table.querySelector("tbody img")) continue;
  table.classList.add("blocks");
  for (const row of rows) {
    for (const [i, cell] of [...row.cells].entries()) {
      if (names[i] && cell.textContent.trim()) cell.dataset.label = names[i];
    }
  }
}

// a broken line of code goes on to the right of its own indent; Pygments closes its tags at each line's end
for (const code of document.querySelectorAll("article .highlight pre")) {
  if (code.closest(".cell_output")) continue;
  const lines = code.innerHTML.replace(/\n$/, "").split("\n");
  const spanned = lines.map((line) => {
    const indent = line.replace(/<[^>]*>/g, "").search(/\S|$/);
    return `<span class="code-line" style="--indent: ${indent}ch">${line}\n</span>`;
  });
  code.innerHTML = spanned.join("");
}

// punctuation stays on the line of its formula
for (const formula of document.querySelectorAll("article span.math")) {
  const whole = document.createElement("span");
  whole.className = "whole";
  const [opening, closing] = [taken(formula.previousSibling, /[([“]+$/), taken(formula.nextSibling, /^[)\].,;:?!”]+/)];
  formula.replaceWith(whole);
  whole.append(opening, formula, closing);
}

function taken(text, pattern) {
  const found = text?.nodeType === Node.TEXT_NODE && text.data.match(pattern);
  if (!found) return "";
  text.data = text.data.replace(pattern, "");
  return found[0];
}

// on a phone, formulas that stand side by side stand one below the other; MathJax has yet to read them
if (matchMedia("(max-width: 46em)").matches) {
  for (const formula of document.querySelectorAll("article div.math")) {
    const tex = formula.lastChild; // a number may stand before it
    const parts = tex.data.trim().slice(2, -2).split(/\s*(?:\\qquad\s*)+/);
    if (parts.length < 2 || parts.some((part) => part.includes("\\begin"))) continue;
    tex.data = `\\[\\begin{gathered}${parts.join("\\\\[1ex]")}\\end{gathered}\\]`;
  }
}

const SMALLEST = 0.6; // a formula, or what a cell prints, that does not fit at this size scrolls

function room(place) {
  const style = getComputedStyle(place);
  return place.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
}

function fit() {
  for (const formula of document.querySelectorAll("article mjx-container")) {
    formula.dataset.size ??= formula.style.fontSize || "100%"; // MathJax's own, in per cent
    formula.style.fontSize = formula.dataset.size;
    const wide = Math.max(formula.scrollWidth, formula.getBoundingClientRect().width);
    const ratio = room(formula.closest("td, p:not(td p), li, dd, div")) / wide;
    if (ratio < 1) formula.style.fontSize = `${0.97 * parseFloat(formula.dataset.size) * Math.max(ratio, SMALLEST)}%`;
  }
  for (const printed of document.querySelectorAll("article .cell_output pre")) {
    printed.style.fontSize = "";
    const size = parseFloat(getComputedStyle(printed).fontSize);
    const ratio = printed.clientWidth / printed.scrollWidth;
    if (ratio < 1 && ratio >= SMALLEST) printed.style.fontSize = `${0.97 * size * ratio}px`;
  }
}

window.addEventListener("load", () => Promise.resolve(window.MathJax?.startup?.promise).then(fit));
window.addEventListener("resize", fit);
document.addEventListener("toggle", fit, true); // what was folded had no width
