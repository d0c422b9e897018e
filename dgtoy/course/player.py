"""Sliders that need no kernel: curves computed beforehand, in a notebook's output and in the book."""

import hashlib
import json

PAGE = """<div class="player" id="ID" style="max-width: 46em; margin: auto; font: 14px system-ui, sans-serif">
<div></div>
<svg viewBox="0 0 600 230" role="img" aria-label="ALT" style="width: 100%; display: block">
<path class="area" fill="COLOR" fill-opacity=".6"/>
<path class="line" fill="none" stroke="currentColor" stroke-width="1.5"/>
<g class="dots" fill="currentColor"></g><g class="ticks" fill="currentColor" font-size="13"></g>
</svg>
<style>@media print { #ID { display: none } } #ID label { display: flex; gap: .8em; margin: .3em 0 }
#ID input { flex: 1; accent-color: COLOR } #ID output { min-width: 4em }</style>
<script>(() => {
const data = DATA, at = data.at, all = document.getElementById("ID");
const part = name => all.querySelector(name), svg = "http://www.w3.org/2000/svg";
const x = v => 600 * (v - data.x[0]) / (data.x[1] - data.x[0]), y = v => 205 - 195 * v / data.top;
const curve = h => h.map((v, i) => (600 * i / (h.length - 1)).toFixed(1) + " " + y(v).toFixed(1)).join("L");
const add = (where, name, look, text = "") => {
  const element = where.appendChild(document.createElementNS(svg, name));
  for (const key in look) element.setAttribute(key, look[key]);
  element.textContent = text;
};
for (let v = Math.ceil(data.x[0] + .2); v < data.x[1]; v += 1)
  add(part(".ticks"), "text", { x: x(v), y: 224, "text-anchor": "middle" }, v);
if (data.line) part(".line").setAttribute("d", "M" + curve(data.line));
function draw() {
  const index = at.reduce((sum, i, k) => sum * data.sliders[k].values.length + i, 0);
  part(".area").setAttribute("d", "M0 205L" + curve(data.curves[index]) + "L600 205Z");
  part(".dots").replaceChildren();
  for (const v of (data.dots || [])[index] || []) add(part(".dots"), "circle", { cx: x(v), cy: 205, r: 4 });
}
data.sliders.forEach((slider, k) => {
  const label = part("div").appendChild(document.createElement("label"));
  const range = document.createElement("input"), output = document.createElement("output");
  Object.assign(range, { type: "range", min: 0, max: slider.values.length - 1, step: 1, value: at[k] });
  const move = () => { at[k] = +range.value; output.textContent = slider.values[at[k]]; draw(); };
  range.addEventListener("input", move);
  label.append(slider.name, range, output);
  move();
});
})()</script>
</div>"""


def player(curves, sliders, x, start, color, alt, line=None, dots=None, digits=3):
    """A curve that follows sliders, as IPython's HTML that stands alone; arrow keys move a slider.

    curves (*sizes, n): heights at n even places from x[0] to x[1], for each value of each slider, the sizes
    being those of `sliders`, {name: values}. start: where each slider stands. line (n,): a curve that stays.
    dots (*sizes, m): places on the axis. Raises ValueError if the sizes do not match the sliders.
    """
    from IPython.display import HTML

    sizes = tuple(len(values) for values in sliders.values())
    if tuple(curves.shape[:-1]) != sizes:
        raise ValueError(
            f"curves has shape {tuple(curves.shape)}; expected {sizes} for the sliders, and heights"
        )
    rounded = lambda t: [[round(v, digits) for v in row] for row in t.reshape(-1, t.shape[-1]).tolist()]
    data = dict(
        x=x,
        at=start,
        top=round(curves.max().item(), digits),
        curves=rounded(curves),
        sliders=[dict(name=name, values=values) for name, values in sliders.items()],
        line=None if line is None else rounded(line)[0],
        dots=None if dots is None else rounded(dots),
    )
    page = PAGE.replace("ALT", alt).replace("COLOR", color)
    page = page.replace("DATA", json.dumps(data, separators=(",", ":")))
    return HTML(page.replace("ID", "p" + hashlib.sha256(page.encode()).hexdigest()[:8]))
