// Runs the explorable page's mathematics for test_explorable.py: a list of jobs in on stdin, their results out, as JSON.
// JSON has no infinity; it travels as null.
import fs from "node:fs";
import vm from "node:vm";

for (const file of ["worlds.js", "world.js", "flow.js"]) {
  const url = new URL(`../book/explorable/${file}`, import.meta.url);
  vm.runInThisContext(fs.readFileSync(url, "utf8"), { filename: file });
}
const dg = globalThis.dgtoy;

const mixtures = ({ pre, domain, asked }) => [pre, domain, asked].map(({ weights, means, covs }) => ({ weights, means, covs }));
const interval = ([lo, hi]) => [lo, hi ?? Infinity];
const models = (parts) => parts.map((part) => ((m) => (x, sigma, out) => m.denoise(x, sigma, out))(new dg.Mixture(part)));
const guided = ({ parts, a, b, range, learned }) => dg.plane(models(parts), a, b, interval(range), learned);
const apply = (D, x, sigma) => D(x, sigma, new Float64Array(x.length));

const jobs = {
  data: () => dg.data,
  world: ({ name, gap, breadth }) => mixtures(dg.makeWorld(name, gap, breadth)),
  widths: ({ name }) => dg.makeWorld(name).widths,
  logp: ({ part, x, sigma }) => new dg.Mixture(part).logp(x, sigma),
  denoise: ({ part, x, sigma }) => apply(models([part])[0], x, sigma),
  guided: (job) => apply(guided(job), job.x, job.sigma),
  karras: ({ n, lo, hi }) => dg.karras(n, lo, hi),
  heun: (job) => dg.last(dg.heun(guided(job), job.x, job.sigmas)),
  outOfDomain: ({ part, x, cut }) => dg.outOfDomain(x, new dg.Mixture(part), cut),
  energy: ({ x, y }) => dg.energyDistance(x, y),
  thickness: ({ x, stroke }) => dg.thickness(x, stroke),
  end: ({ means, stds, inside, outside, range }) =>
    [dg.endMean(means, stds, inside, outside, interval(range)), dg.endStd(stds, inside, outside, interval(range))],
  truth: ({ name, n }) => dg.makeWorld(name).asked.sample(n, dg.seeded(3)),
  normals: ({ n, kind }) => dg.normals(n, kind === "even" ? dg.even() : dg.seeded(5)),
  height: ({ name, which, reach, n }) => {
    const grid = dg.grid(dg.makeWorld(name)[which], [0, 0], reach, n), height = dg.heightOf(grid, 0.9);
    return { height, lines: dg.contour(grid, height) };
  },
  predict: ({ params }) => {
    const flow = new dg.Flow(settings(params));
    return flow.methods.map((m) => flow.predict(m.inside));
  },
  flow: ({ params, touched }) => run(settings(params), touched),
};

function settings(params) {
  return { ...dg.START, ...params, hi: params.hi ?? Infinity };
}

// All four methods of the page as it computes them, a few particles at a time; `touched`: settings to change half way.
function run(params, touched) {
  const flow = new dg.Flow(params);
  flow.work(0);
  if (touched) flow.set({ ...params, ...touched });
  while (flow.work(1000));
  const methods = flow.methods.map((m) => ({ name: m.name, a: m.a, b: m.b, x0: m.paths.at(-1), ...flow.measure(m) }));
  return { noise: flow.noise, sigmas: flow.sigmas, methods };
}

const plain = (key, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
const asked = JSON.parse(fs.readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(asked.map(([name, job]) => jobs[name](job)), plain));
