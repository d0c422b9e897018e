// Light or dark: as chosen on the pages of the book, else as the system has it. Drawings learn of a change by the event "theme".
"use strict";

(function () {
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try {
      return localStorage.getItem("theme");
    } catch {                                              // a browser that keeps nothing for files
      return null;
    }
  }

  function apply() {
    const dark = { dark: true, light: false }[chosen()] ?? system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    window.dispatchEvent(new Event("theme"));
  }

  apply();
  system.addEventListener("change", apply);
  for (const kind of ["storage", "pageshow"]) window.addEventListener(kind, apply);
})();
