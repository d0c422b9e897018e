// Four ways to sample, from the same noise: the paths of all particles, kept up to date a few particles at a time.
// When a control moves, each frame recomputes as many particles as it has time for. The others keep their old path for
// a moment longer, so the cloud follows the hand even where one full computation takes half a second.
"use strict";

(function (dgtoy) {
  const COUNT = 2000, CHUNK = 20, TRUTH = 1000;
  const [LOWEST, HIGHEST] = [0.005, 80];                   // noise levels, as in EDM's sampler
  const METHODS = ["none", "CFG", "DoG", "plane"];

  const START = { world: "moons", w: 1.5, a: 1.5, b: 1, gap: 0, breadth: 1, domain: 1, label: 1, lo: 0, hi: Infinity, steps: 32,
    guide: "plane", blur: 0.3 };

  const pointOf = (method, { w, a, b }) => ({ none: [1, 1], CFG: [1, w], DoG: [w, w], plane: [a, b] })[method];

  // A method's place on the plane, and its weights of D_pre, D_null, D_c and of the three blurred by b. The fourth panel may
  // also show the fine-tune guided by the exact null model of the target, or by its own density, blurred.
  function aimed(name, params) {
    const { w, guide, domain, label } = params, own = dgtoy.weights(1, 1, [domain, label]);
    if (name !== "plane" || guide === "plane") {
      const [a, b] = pointOf(name, params);
      return { a, b, inside: six(dgtoy.weights(a, b, [domain, label])) };
    }
    const main = six(own), guided = guide === "null" ? six([0, 1, 0]) : six([0, 0, 0, ...own]);
    return { a: w, b: w, inside: main.map((v, i) => w * v + (1 - w) * guided[i]) };
  }

  const six = (weights) => Array.from({ length: 6 }, (_, i) => weights[i] ?? 0);

  class Flow {
    constructor(params = START) {
      this.noise = dgtoy.normals(2 * COUNT, dgtoy.seeded(1)).map((z) => z * HIGHEST);
      this.methods = METHODS.map((name) => ({ name, paths: [], fresh: 0, next: 0, valid: 0, measured: null }));
      this.set(params);
    }

    // Takes over changed settings; methods that they do not touch keep their particles.
    set(params) {
      const before = this.params;
      this.params = params;
      const { world, gap, breadth } = params;
      if (!before || before.world !== world || before.gap !== gap || before.breadth !== breadth) this.move();
      if (before?.steps !== params.steps) this.schedule();
      for (const method of this.methods) this.aim(method);
    }

    move() {
      this.world = dgtoy.makeWorld(this.params.world, this.params.gap, this.params.breadth);
      this.truth = this.world.asked.sample(TRUTH, dgtoy.seeded(7));
      this.truthWithin = dgtoy.meanWithin(this.truth);
    }

    schedule() {
      this.sigmas = dgtoy.karras(this.params.steps, LOWEST, HIGHEST);
      for (const method of this.methods) {
        method.paths = this.sigmas.map(() => new Float32Array(2 * COUNT));
        method.valid = method.next = 0;                    // paths of another length are no use
      }
    }

    // Points a method at its place on the plane. Everything that decides where its particles go is in the key.
    aim(method) {
      const { lo, hi, domain, label, steps, world, gap, breadth, blur } = this.params, aim = aimed(method.name, this.params);
      const outside = six(dgtoy.weights(1, 1, [domain, label])), off = aim.inside.every((v, i) => v === outside[i]);
      const isBlurred = aim.inside.slice(3).some((v) => v !== 0);
      const key = JSON.stringify([aim.inside, domain, label, steps, world, gap, breadth, isBlurred ? blur : 0, off ? 0 : [lo, String(hi)]]);
      Object.assign(method, { a: aim.a, b: aim.b });
      if (key === method.key) return;
      const models = [...this.world.models, ...this.world.models.map((model) => dgtoy.blurred(model, blur))];
      Object.assign(method, { key, inside: aim.inside, D: dgtoy.mix(models, aim.inside, outside, [lo, hi]), fresh: 0 });
    }

    // Recomputes particles for about this many milliseconds; true while some are left.
    work(budget) {
      const end = performance.now() + budget;
      for (let open = this.open(); open.length; open = this.open()) {
        open.forEach((method) => this.advance(method));
        if (performance.now() > end) break;
      }
      return this.open().length > 0;
    }

    open() {
      return this.methods.filter((method) => method.fresh < COUNT);
    }

    // The next few particles of a method, from noise to data.
    advance(method) {
      const from = 2 * method.next, start = this.noise.subarray(from, from + 2 * CHUNK);
      method.paths[0].set(start, from);
      let level = 1;
      for (const x of dgtoy.heun(method.D, start, this.sigmas)) method.paths[level++].set(x, from);
      method.fresh += CHUNK;
      method.next = (method.next + CHUNK) % COUNT;
      method.valid = Math.min(COUNT, method.valid + CHUNK);
    }

    // Where a method's particles are at time u, 0 for noise to 1 for data, with the noise level there.
    at(method, u) {
      const t = u * (this.sigmas.length - 1), i = Math.min(Math.floor(t), this.sigmas.length - 2), f = t - i;
      return { from: method.paths[i], to: method.paths[i + 1], f, sigma: this.sigmas[i] * (1 - f) + this.sigmas[i + 1] * f };
    }

    // What the samples are like, and what the closed form says they should be like.
    measure(method) {
      const x = method.paths.at(-1), { world, truth } = this;
      const centre = world.widths.whole.map((models) => models[2].mean);
      method.measured = {
        outside: dgtoy.outOfDomain(x, world.asked, world.cut),
        energy: dgtoy.energyDistance(x.subarray(0, 2 * TRUTH), truth, this.truthWithin),
        thickness: dgtoy.thickness(x, world.stroke) / world.widths.across[2],
        shift: x.reduce((sum, v, i) => sum + (i % 2 ? 0 : v), 0) / COUNT - centre[0],
      };
      return method.measured;
    }

    // By the closed form, for a method's weights: thickness relative to the target's, and the shift of the mean along the gap.
    predictThickness(inside) {
      const stds = this.withBlurred(this.world.widths.across);
      return dgtoy.endStd(stds, ...this.rule(inside)) / stds[2];
    }

    predict(inside) {
      const x = this.world.widths.whole[0], stds = this.withBlurred(x.map((m) => m.std)), means = x.map((m) => m.mean);
      return {
        thickness: this.predictThickness(inside),
        shift: dgtoy.endMean([...means, ...means], stds, ...this.rule(inside)) - means[2],
      };
    }

    // Standard deviations of the three models, and of the three blurred.
    withBlurred(stds) {
      return [...stds, ...stds.map((s) => Math.hypot(s, this.params.blur))];
    }

    // The models' weights inside and outside the interval, and the interval.
    rule(inside) {
      const { lo, hi, domain, label } = this.params;
      return [six(inside), six(dgtoy.weights(1, 1, [domain, label])), [lo, hi]];
    }

    // For Gaussians the closed form is the whole answer: centre and standard deviations of the samples.
    predictedEllipse(inside) {
      const rule = this.rule(inside), axes = this.world.widths.whole.map((m) => {
        const means = m.map((v) => v.mean);
        return [[...means, ...means], this.withBlurred(m.map((v) => v.std))];
      });
      return { centre: axes.map(([means, stds]) => dgtoy.endMean(means, stds, ...rule)), stds: axes.map(([, stds]) => dgtoy.endStd(stds, ...rule)) };
    }
  }

  Object.assign(dgtoy, { Flow, START, COUNT, METHODS });
})(globalThis.dgtoy);
