// Thickness of the samples against a, the weight of the domain step: the closed form as a line, what happened as marks.
"use strict";

(function (dgtoy) {
  const { svg, mark } = dgtoy;
  const WIDTH = 320, HEIGHT = 320, LEFT = 40, BOTTOM = 34, TOP = 10, MAX = 3;
  const [LOW, HIGH] = [Math.log10(0.0015), Math.log10(60)];
  const KEPT = 150;                                        // marks of the trace
  const x = (a) => LEFT + (a / MAX) * (WIDTH - LEFT - TOP);
  const y = (v) => TOP + ((HIGH - Math.min(HIGH, Math.max(LOW, Math.log10(v)))) / (HIGH - LOW)) * (HEIGHT - TOP - BOTTOM);
  const shown = (v) => Math.log10(v) > LOW && Math.log10(v) < HIGH;

  function frame() {
    const text = (at, words, attributes) => svg("text", { x: at[0], y: at[1], ...attributes }, words);
    return [
      ...[0.01, 0.1, 1, 10].flatMap((v) => [
        svg("path", { class: v === 1 ? "grid strong" : "grid", d: `M${x(0)} ${y(v)}H${x(MAX)}` }),
        text([LEFT - 6, y(v) + 4], `×${v}`, { "text-anchor": "end" }),
      ]),
      ...[0, 1, 2, 3].flatMap((a) => [
        svg("path", { class: "grid", d: `M${x(a)} ${HEIGHT - BOTTOM}V${TOP}` }),
        text([x(a), HEIGHT - BOTTOM + 15], String(a), { "text-anchor": "middle" }),
      ]),
      text([x(MAX), HEIGHT - 4], "a, domain step →", { "text-anchor": "end" }),
      text([x(MAX) - 4, y(1) - 5], "as thick as the target", { "text-anchor": "end" }),
    ];
  }

  function thicknessChart(host) {
    const line = svg("path", { class: "line formula" }), trace = svg("g", { class: "trace" }), now = svg("g");
    const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" }, ...frame(), line, trace, now);
    host.append(root);
    let key = "", earlier = {};
    return {
      // The line depends on the world but not on w or the star; when it changes, the trace is wiped.
      show(flow) {
        const as = Array.from({ length: 61 }, (_, i) => (MAX * i) / 60), { domain, label } = flow.params;
        const values = as.map((a) => flow.predictThickness(dgtoy.weights(a, a, [domain, label])));
        const fresh = values.map((v) => v.toPrecision(4)).join() + flow.params.steps + flow.params.world;
        if (fresh !== key) trace.replaceChildren(), (earlier = {});
        key = fresh;
        const dots = as.map((a, i) => [a, values[i]]).filter(([, v]) => shown(v));
        line.setAttribute("d", dots.map(([a, v], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(v).toFixed(1)}`).join(""));
      },
      mark(flow) {
        const found = flow.methods.filter((m) => m.measured);
        now.replaceChildren(...found.map((m) => mark(m.name, { transform: `translate(${x(m.a)} ${y(m.measured.thickness)})` })));
        for (const m of found) {
          const spot = `${x(m.a).toFixed(1)} ${y(m.measured.thickness).toFixed(1)}`;
          if (spot === earlier[m.name]) continue;
          earlier[m.name] = spot;
          trace.append(mark(m.name, { transform: `translate(${spot}) scale(0.5)` }));
          if (trace.childElementCount > KEPT) trace.firstChild.remove();
        }
        const told = found.map((m) => `${m.name} ${m.measured.thickness.toFixed(2)}, formula ${flow.predictThickness(m.inside).toFixed(2)}`);
        root.setAttribute("aria-label", `Thickness relative to the target. ${told.join("; ")}`);
      },
    };
  }

  Object.assign(dgtoy, { thicknessChart });
})(globalThis.dgtoy);
