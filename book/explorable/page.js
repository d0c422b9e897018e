// The page: controls, panels, read-outs, and the loop that keeps them in step.
"use strict";

(function (dgtoy) {
  const { COUNT, METHODS, START, svg, mark } = dgtoy;
  const $ = (id) => document.getElementById(id);
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");

  // ---- what can be set ----

  const percent = (v) => `${Math.round(100 * v)}%`;
  const level = (v) => (v === 0 ? "0" : v === Infinity ? "∞" : v < 0.1 ? v.toFixed(3) : v.toPrecision(2));
  const plain = { read: (v) => v, write: (v) => v };
  // sliders of a logarithm; the end of the scale stands for 0 or infinity
  const log = { read: (v) => 10 ** v, write: Math.log10 };
  const floor = { read: (v) => (v <= -2.5 ? 0 : 10 ** v), write: (v) => (v ? Math.log10(v) : -2.5) };
  const ceiling = { read: (v) => (v >= 2 ? Infinity : 10 ** v), write: (v) => (v === Infinity ? 2 : Math.log10(v)) };

  const SLIDERS = [
    { key: "w", group: "weight", name: "weight w", range: [0, 3, 0.05], show: (v) => v.toFixed(2), hint: "of guidance; 1 is off", ...plain },
    { key: "domain", group: "The fine-tune", name: "domain step learned", range: [0.2, 1, 0.05], show: percent, ...plain },
    { key: "label", group: "The fine-tune", name: "class step learned", range: [0.2, 1, 0.05], show: percent, ...plain },
    { key: "gap", group: "The data", name: "domain gap", range: [0, 2, 0.05], show: (v) => v.toFixed(2), hint: "beyond 1 it is outside", ...plain },
    { key: "breadth", group: "The data", name: "source breadth", range: [-0.6, 0.4, 0.02], show: (v) => `×${v.toFixed(2)}`, ...log },
    { key: "lo", group: "The sampler", name: "guide from noise level", range: [-2.5, 1.9, 0.05], show: level, ...floor },
    { key: "hi", group: "The sampler", name: "guide up to noise level", range: [-2, 2, 0.05], show: level, ...ceiling },
    { key: "blur", group: "The fourth panel", name: "blur b", range: [-1.3, 0.5, 0.05], show: level, hint: "of the blurred self", ...log },
    { key: "steps", group: "The sampler", name: "number of steps", range: [2, 64, 1], show: String, ...plain },
  ];

  const TRIES = [
    { name: "Sharpen", set: { w: 1.5 }, text: `This fine-tune is perfect, so sampling without guidance is already right. Raise w.
      Where do CFG’s dots go, and where DoG’s? Guidance leaves fewer dots outside and takes the samples farther from the truth:
      watch both numbers.` },
    { name: "Complete", set: { w: 1, a: 1, domain: 0.6, label: 0.6 }, text: `This fine-tune stopped at 60% of both steps, and its
      dots end between source and target. Raise w slowly. Which method repairs it, and at which w? What is 1 divided by 0.6?` },
    { name: "Find the point", set: { w: 1.5, a: 1, domain: 0.8, label: 0.4 }, text: `The domain step is almost learned, the class
      step is not. CFG can finish one of them; DoG stretches both alike. Drag the star until its distance is close to 0. Stuck?
      “Shade by distance” draws the map.` },
    { name: "Only at low noise", set: { w: 2, a: 1, hi: 0.3 }, text: `Guidance acts below noise level 0.3 only, where the thickness
      of a stroke is decided. Now slide “guide up to” to ∞ and back: which parts of the moon come and go, and what does the
      distance say?` },
    { name: "Too far", set: { w: 1, a: 1, gap: 1.25, breadth: 0.7 }, view: "world", text: `The target lies outside everything the
      pre-trained model has seen. Raise w. DoG pushes away from the source, past the target, and the formula for the shift says
      how far. Then make the source broader.` },
    { name: "A better null?", set: { w: 2, a: 1, domain: 0.85, label: 0.85, guide: "null" }, text: `CFG’s guide is the fine-tune without
      its label, and this fine-tune stopped at 85% of both steps. In the fourth panel CFG gets the exact model of the target for its guide.
      Does the better guide help? Main model and guide no longer share their error, and guidance stretches it.` },
    { name: "Breadth alone", set: { w: 2, a: 1, domain: 0.85, label: 0.85, guide: "blur", blur: 0.15 }, text: `The same fine-tune, and in the
      fourth panel it is guided by its own density, blurred. This guide knows nothing of the source; it is only broader. Compare what
      lies outside, and the distance, with DoG’s. Then change the blur.` },
  ];

  const LINKED = "These settings came with a link. Raise w and watch both numbers, or begin with a suggestion.";

  // what the fourth panel shows, and its title
  const GUIDES = { plane: "your point on the plane", null: "CFG with an exact null model", blur: "guided by its own density, blurred" };
  const GUIDED = { plane: "Your point", null: "Exact null", blur: "Blurred self" };

  let params = { ...START }, view = "target";
  const flow = new dgtoy.Flow(params);

  // ---- building the page ----

  function build(tag, attributes = {}, ...children) {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...children);
    return element;
  }

  function slider({ key, name, range, show, hint, read, write }) {
    const [min, max, step] = range;
    const input = build("input", { type: "range", id: key, min, max, step }), output = build("output", { htmlFor: key });
    input.addEventListener("input", () => change({ [key]: read(Number(input.value)) }));
    const refresh = () => {
      input.value = write(params[key]);
      output.value = show(params[key]);
      input.setAttribute("aria-valuetext", show(params[key]));
    };
    const label = build("label", { htmlFor: key }, name, hint ? build("small", {}, ` ${hint}`) : "");
    return { element: build("div", { className: "slider" }, label, output, input), refresh };
  }

  function choice(key, name, group, titles) {
    const options = Object.entries(titles).map(([value, title]) => build("option", { value }, title));
    const select = build("select", { id: key }, ...options), label = build("label", { htmlFor: key }, name);
    select.addEventListener("change", () => change({ [key]: select.value }));
    return { element: build("div", { className: "slider" }, label, select), refresh: () => (select.value = params[key]), group };
  }

  function controls() {
    const made = SLIDERS.map((s) => ({ ...slider(s), group: s.group }));
    const worlds = Object.fromEntries(Object.entries(dgtoy.data.targets).map(([key, { title }]) => [key, title]));
    const world = choice("world", "world", "The data", worlds), guide = choice("guide", "shows", "The fourth panel", GUIDES);
    const all = [...made.slice(0, 3), world, ...made.slice(3, 5), guide, ...made.slice(5)];
    $("weight").append(made[0].element);
    for (const group of new Set(all.slice(1).map((c) => c.group))) {
      $("controls").append(build("fieldset", {}, build("legend", {}, group), ...all.filter((c) => c.group === group).map((c) => c.element)));
    }
    $("controls").append(build("button", { type: "button", id: "reset", onclick: () => attempt(0) }, "Reset"));
    return all;
  }

  const titleOf = (name) => ({ none: "No guidance", plane: GUIDED[params.guide] })[name] ?? name;
  const READOUTS = { outside: "outside", energy: "distance", thickness: "thickness", shift: "shift" };

  function panel(name) {
    const canvas = build("canvas", { className: "stage" });
    const [note, about, title] = ["note", "about", "title"].map((className) => build("span", { className }));
    canvas.setAttribute("role", "img");
    const cells = {}, rows = Object.entries(READOUTS).map(([key, words]) => {
      cells[key] = { found: build("dd"), told: build("dd", { className: "told" }) };
      return build("div", { className: key }, build("dt", {}, words), cells[key].found, cells[key].told);
    });
    const icon = svg("svg", { viewBox: "-11 -11 22 22", "aria-hidden": "true" }, mark(name));
    const element = build("article", { className: `panel ${name}` }, build("h3", {}, icon, title), about,
      build("div", { className: "frame" }, canvas, note), build("dl", {}, ...rows));
    canvas.addEventListener("click", (event) => {
      traced = dgtoy.pick(canvas, flow, flow.methods[METHODS.indexOf(name)], { u: time, view }, event.offsetX, event.offsetY);
      dirty = true;
      refresh();
    });
    $("panels").append(element);
    return { canvas, note, about, title, cells, element };
  }

  // ---- state of the show ----

  const LENGTH = 5, TRAIL = 0.03;                          // seconds from noise to data; tails in the same unit as time, 0 to 1
  let time = 1, playing = false, traced = null, attempted = 0, map = null, shaded = false;
  let dirty = true, measuredAt = 0, told = null, colours = readColours();
  const panels = Object.fromEntries(METHODS.map((name) => [name, panel(name)]));
  const inputs = controls();
  const plane = dgtoy.planeWidget($("plane"), (a, b) => change({ a, b, guide: "plane" }));
  const chart = dgtoy.thicknessChart($("chart"));

  function readColours() {
    const css = getComputedStyle(document.documentElement), get = (name) => css.getPropertyValue(`--${name}`).trim();
    return Object.fromEntries(["ink", "paper", "source", "formula", ...METHODS].map((name) => [name, get(name)]));
  }

  function change(some) {
    const next = { ...params, ...some };
    if (next.lo >= next.hi) "lo" in some ? (next.hi = next.lo * 1.2 || 0.01) : (next.lo = 0);
    const sameMap = ["world", "gap", "breadth", "domain", "label", "lo", "hi"].every((key) => next[key] === params[key]);
    params = next;
    flow.set(params);
    if (shaded && !sameMap) map = dgtoy.mapOf(flow, plane.cells);
    [playing, time] = [false, 1];                          // what a control does is seen at the end of the way
    dirty = true;
    refresh();
  }

  // Sets everything to one of the suggestions and shows it from the start.
  function attempt(i) {
    attempted = i;
    view = TRIES[i].view ?? "target";
    if (shaded) shade(false);
    change({ ...START, ...TRIES[i].set });
    if (!still.matches) play(true);
  }

  function play(on) {
    if (on && time >= 1) time = 0;
    playing = on;
    dirty = true;
    refresh();
  }

  function shade(on) {
    shaded = on;
    map = on ? dgtoy.mapOf(flow, plane.cells) : null;
    if (!on) plane.cells.replaceChildren();
    refresh();
  }

  const press = (button, on) => button.setAttribute("aria-pressed", on);

  function refresh() {
    inputs.forEach((control) => control.refresh());
    plane.show(params);
    chart.show(flow);
    [$("a").value, $("b").value] = [params.a.toFixed(2), params.b.toFixed(2)];
    $("play").textContent = playing ? "Pause" : time < 1 ? "Continue" : "Play again";
    press($("view"), view === "world"), press($("follow"), traced !== null), press($("map"), shaded);
    $("map-text").hidden = !shaded;
    [...$("tries").children].forEach((button, i) => press(button, i === attempted));
    if (told !== attempted) $("try-text").textContent = TRIES[told = attempted]?.text ?? LINKED;
    const times = (v) => `× ${v.toFixed(2)}`, { w, a, b } = params;
    const about = { none: "both steps once", CFG: `class step ${times(w)}`, DoG: `both steps ${times(w)}`,
      plane: `domain ${times(a)}, class ${times(b)}` };
    if (params.guide === "null") about.plane = `class step ${times(w)}`;
    if (params.guide === "blur") about.plane = `away from itself ${times(w)}`;
    for (const name of METHODS) {
      panels[name].about.textContent = about[name];
      panels[name].title.textContent = titleOf(name);
      panels[name].element.setAttribute("aria-label", titleOf(name));
    }
    $("blur").parentElement.hidden = params.guide !== "blur";
    document.body.classList.toggle("gap", params.gap !== 0);
    $("link").href = `#${address(params)}`;
  }

  // ---- read-outs ----

  const FORMAT = {
    outside: percentOf,
    energy: (v) => (Math.abs(v) < 5e-4 ? "0.000" : v.toFixed(3).replace("-", "−")),
    thickness: (v) => `×${v < 0.095 ? v.toFixed(3) : v.toFixed(2)}`,
    shift: (v) => `${v < 0 ? "−" : "+"}${Math.abs(v).toFixed(2)}`,
  };

  function percentOf(v) {
    return `${(100 * v).toFixed(1)}%`;
  }

  function report(method) {
    const { cells, canvas } = panels[method.name], found = flow.measure(method), told = flow.predict(method.inside);
    for (const key of Object.keys(READOUTS)) {
      cells[key].found.textContent = FORMAT[key](found[key]);
      if (key in told) cells[key].told.textContent = `formula ${FORMAT[key](told[key])}`;
    }
    canvas.setAttribute("aria-label", `${COUNT} samples: ${percentOf(found.outside)} outside, distance ${FORMAT.energy(found.energy)}, `
      + `thickness ${FORMAT.thickness(found.thickness)} of the target's, formula ${FORMAT.thickness(told.thickness)}`);
    method.reported = method.key + method.fresh;
  }

  // While a control moves, one method every 100 ms: numbers may lag a little, dots may not.
  function measure(now) {
    const settled = flow.open().length === 0;
    if (!settled && now - measuredAt < 100) return;
    const waiting = flow.methods.filter((m) => m.valid === COUNT && m.reported !== m.key + m.fresh);
    if (!waiting.length) return;
    measuredAt = now;
    report(waiting.sort((p, q) => (p.reportedAt ?? 0) - (q.reportedAt ?? 0))[0]);
    waiting[0].reportedAt = now;
    if (settled && waiting.length === 1) settle();
  }

  let announcing;
  function settle() {
    chart.mark(flow);
    clearTimeout(announcing);
    announcing = setTimeout(() => {                        // for screen readers, once the hand rests
      const words = ({ name, measured: { outside, energy } }) => `${titleOf(name)}: ${percentOf(outside)} outside, distance ${FORMAT.energy(energy)}`;
      $("status").textContent = flow.methods.map(words).join(". ");
    }, 1000);
  }

  // ---- the loop ----

  const FRAME = 20;                                        // milliseconds for drawing and computing; the rest of 33 is for the read-outs
  const frames = [];                                       // times of the last frames drawn, for measuring the rate
  let before = 0, drawing = 8;                             // what drawing takes, averaged

  function frame(now) {
    const passed = Math.min(0.1, (now - before) / 1000);
    before = now;
    if (playing) {
      time = Math.min(1, time + passed / LENGTH);
      if (time === 1) play(false);
      dirty = true;
    }
    if (flow.open().length) {
      flow.work(Math.max(6, FRAME - drawing));
      dirty = true;
    } else if (map && !playing) {
      for (const end = performance.now() + 14; performance.now() < end;) if (map.next().done) { map = null; break; }
    }
    measure(now);
    if (dirty) {
      const start = performance.now();
      drawAll(now);
      drawing += 0.1 * (performance.now() - start - drawing);
    }
    requestAnimationFrame(frame);
  }

  function drawAll(now) {
    dirty = false;
    for (const method of flow.methods) {
      const { canvas, note } = panels[method.name];
      const missing = dgtoy.panel(canvas, flow, method, { u: time, trail: playing ? TRAIL : 0, view, traced, colours });
      note.textContent = missing ? `${missing} outside the frame` : "";
    }
    $("time").value = time;
    $("sigma").value = `σ = ${level(flow.at(flow.methods[0], time).sigma)}`;
    frames.push(now);
    if (frames.length > 120) frames.shift();
  }

  // ---- settings in the address, so that a class can share them ----

  function address(settings) {
    const changed = Object.entries(settings).filter(([key, value]) => value !== START[key]);
    return changed.map(([key, value]) => `${key}=${typeof value === "number" ? Number(value.toPrecision(4)) : value}`).join("&");
  }

  function fromAddress() {
    const found = {};
    for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
      if (key === "world" && value in dgtoy.data.targets) found.world = value;
      if (key === "guide" && value in GUIDES) found.guide = value;
      const range = SLIDERS.find((s) => s.key === key) ?? (["a", "b"].includes(key) && SLIDERS[0]);
      if (range && value && !Number.isNaN(Number(value))) {
        const at = Math.min(range.range[1], Math.max(range.range[0], range.write(Number(value))));
        found[key] = key === "steps" ? Math.round(at) : range.read(at);
      }
    }
    return found;
  }

  // Sets what the address says, with the words of the suggestion that it is, at whichever w.
  function follow() {
    const given = { ...START, ...fromAddress() };
    if (address(given) !== address(params)) {              // not this page's own link to what it shows
      attempted = TRIES.findIndex(({ set }) => address({ ...START, ...set, w: 0 }) === address({ ...given, w: 0 }));
      view = TRIES[attempted]?.view ?? "target";
    }
    change(given);
  }

  // ---- listening ----

  TRIES.forEach(({ name }, i) => {
    $("tries").append(build("button", { type: "button", onclick: () => attempt(i) }, build("b", {}, String(i + 1)), ` ${name}`));
  });
  $("play").onclick = () => play(!playing);
  $("time").oninput = () => { playing = false; time = Number($("time").value); dirty = true; refresh(); };
  $("view").onclick = () => { view = view === "world" ? "target" : "world"; dirty = true; refresh(); };
  $("follow").onclick = () => { traced = traced === null ? 17 : null; dirty = true; refresh(); };
  $("map").onclick = () => shade(!shaded);
  for (const key of ["a", "b"]) {
    $(key).onchange = () => change({ [key]: Math.min(3, Math.max(0, Number($(key).value) || 0)), guide: "plane" });
  }
  window.addEventListener("resize", () => { dirty = true; });
  window.addEventListener("hashchange", follow);
  window.addEventListener("theme", () => { colours = readColours(); dirty = true; });

  $("needs-scripts").remove(); // what a page without its scripts says
  follow();
  if (!still.matches) play(true);
  requestAnimationFrame(frame);

  Object.assign(dgtoy, { page: { flow, frames, busy: () => flow.open().length > 0 || playing || map !== null } });
})(globalThis.dgtoy);
