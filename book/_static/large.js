// A tap on a figure shows it large, so that a phone's reader can move about in it; another tap, or Escape, closes it.
"use strict";

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
