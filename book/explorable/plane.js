// The guidance plane: none, CFG and DoG as marks, the user's own point as a star to drag; and a map of what each point does.
"use strict";

(function (dgtoy) {
  const MAX = 3, STEP = 0.05, SIZE = 320, LEFT = 34, BOTTOM = 34, TOP = 10;
  const UNIT = (SIZE - LEFT - TOP) / MAX;
  const x = (a) => LEFT + a * UNIT, y = (b) => SIZE - BOTTOM - b * UNIT;
  const clamp = (v) => Math.min(MAX, Math.max(0, Math.round(v / STEP) * STEP));

  const MARKS = {                                          // the shapes of dgtoy.plot: never colour alone
    none: "M5.5 0A5.5 5.5 0 1 1-5.5 0A5.5 5.5 0 1 1 5.5 0Z",
    CFG: "M-5-5H5V5H-5Z",
    DoG: "M0-7L7 0L0 7L-7 0Z",
    plane: "M0-10L2.6-3.4L9.5-3.1L4.1 1.3L5.9 8.1L0 4.2L-5.9 8.1L-4.1 1.3L-9.5-3.1L-2.6-3.4Z",
  };

  function svg(name, attributes = {}, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  const mark = (method, attributes = {}) => svg("path", { d: MARKS[method], class: `mark ${method}`, ...attributes });
  const text = (at, words, attributes = {}) => svg("text", { x: at[0], y: at[1], ...attributes }, words);
  const put = (element, a, b) => element.setAttribute("transform", `translate(${x(a)} ${y(b)})`);

  function frame() {
    const ticks = [0, 1, 2, 3].flatMap((v) => [
      svg("path", { class: "grid", d: `M${x(v)} ${y(0)}V${y(MAX)}M${x(0)} ${y(v)}H${x(MAX)}` }),
      text([x(v), y(0) + 15], String(v), { "text-anchor": "middle" }),
      text([x(0) - 7, y(v) + 4], String(v), { "text-anchor": "end" }),
    ]);
    const lines = [
      svg("path", { class: "line CFG", d: `M${x(1)} ${y(0)}V${y(MAX)}` }),
      svg("path", { class: "line DoG", d: `M${x(0)} ${y(0)}L${x(MAX)} ${y(MAX)}` }),
    ];
    const names = [
      text([x(1) + 6, y(MAX) + 13], "CFG", { class: "name" }),
      text([x(2.62), y(2.42)], "DoG", { class: "name" }),
      text([x(0) + 4, y(0) - 5], "pre-trained"),
      text([x(1) + 5, y(0) - 5], "fine-tuned, no label"),
      text([x(1) - 9, y(1) - 9], "fine-tuned (none)", { "text-anchor": "end" }),
      text([x(MAX), SIZE - 4], "a, domain step →", { "text-anchor": "end" }),
      text([0, 0], "b, class step →", { "text-anchor": "end", transform: `translate(10 ${y(MAX)}) rotate(-90)` }),
    ];
    return [...ticks, ...lines, ...names];
  }

  // onMove(a, b) is called when the user moves the star.
  function planeWidget(host, onMove) {
    const cells = svg("g", { "aria-hidden": "true" });
    const marks = { none: mark("none"), CFG: mark("CFG"), DoG: mark("DoG") };
    const star = svg("g", { class: "star", tabindex: 0, role: "slider", "aria-label": "Your point on the guidance plane",
      "aria-roledescription": "two-dimensional slider", "aria-valuemin": 0, "aria-valuemax": MAX },
    svg("circle", { r: 20, class: "halo" }), mark("plane"));
    const root = svg("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, class: "plane" }, cells, ...frame(), ...Object.values(marks), star);
    host.append(root);
    let at = [1, 1];

    const move = (a, b) => onMove(clamp(a), clamp(b));
    const drag = (event) => {
      const box = root.getBoundingClientRect(), unit = box.width / SIZE;
      move(((event.clientX - box.left) / unit - LEFT) / UNIT, (SIZE - BOTTOM - (event.clientY - box.top) / unit) / UNIT);
    };
    root.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch" && !star.contains(event.target)) return;            // a finger there may mean to scroll
      root.setPointerCapture(event.pointerId);
      event.preventDefault();
      star.focus({ preventScroll: true });
      drag(event);
    });
    star.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });  // the page would scroll
    root.addEventListener("click", drag);
    root.addEventListener("pointermove", (event) => root.hasPointerCapture(event.pointerId) && drag(event));
    star.addEventListener("keydown", (event) => {
      const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!way) return;
      event.preventDefault();                              // the page would scroll
      const far = STEP * (event.shiftKey ? 5 : 1);
      move(at[0] + far * way[0], at[1] + far * way[1]);
    });

    return {
      cells,
      show({ a, b, w }) {
        at = [a, b];
        put(marks.none, 1, 1), put(marks.CFG, 1, w), put(marks.DoG, w, w), put(star, a, b);
        star.setAttribute("aria-valuenow", a);
        star.setAttribute("aria-valuetext", `a, domain step ${a.toFixed(2)}; b, class step ${b.toFixed(2)}`);
      },
    };
  }

  // ---- the map: energy distance all over the plane, measured a few points a frame ----

  const CELL = 0.25, PARTICLES = 300, LEVELS = 20, DARKEST = 0.6;
  const [GOOD, BAD] = [-2, 0.3];                           // log10 of the distances at the ends of the shading; 0.01 is chance

  // A generator: each step samples one point of the plane and shades its cell.
  function* mapOf(flow, cells) {
    const { lo, hi, domain, label } = flow.params, levels = dgtoy.karras(LEVELS, flow.sigmas.at(-2), flow.sigmas[0]);
    const start = dgtoy.normals(2 * PARTICLES, dgtoy.even()).map((z) => z * levels[0]);
    cells.replaceChildren();
    for (const [a, b] of coarseToFine()) {
      const D = dgtoy.plane(flow.world.models, a, b, [lo, hi], [domain, label]);
      const energy = dgtoy.energyDistance(dgtoy.last(dgtoy.heun(D, start, levels)), flow.truth, flow.truthWithin);
      const shade = (Math.log10(Math.max(energy, 1e-6)) - GOOD) / (BAD - GOOD);
      cells.append(cell(a, b, DARKEST * Math.min(1, Math.max(0, shade))));
      yield;
    }
  }

  function cell(a, b, opacity) {
    const inside = (v) => Math.min(MAX, Math.max(0, v)), half = CELL / 2;
    const [left, right, low, high] = [inside(a - half), inside(a + half), inside(b - half), inside(b + half)];
    return svg("rect", { class: "cell", opacity: opacity.toFixed(3), x: x(left), y: y(high),
      width: (right - left) * UNIT + 0.3, height: (high - low) * UNIT + 0.3 });                    // 0.3: no seams between cells
  }

  // Every other point first, so that the picture is there early.
  function coarseToFine() {
    const n = Math.round(MAX / CELL) + 1, all = Array.from({ length: n * n }, (_, i) => [i % n, Math.floor(i / n)]);
    const rank = ([i, j]) => (i % 2) + (j % 2);
    return all.sort((p, q) => rank(p) - rank(q)).map(([i, j]) => [i * CELL, j * CELL]);
  }

  Object.assign(dgtoy, { svg, mark, planeWidget, mapOf });
})(globalThis.dgtoy);
