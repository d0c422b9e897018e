// The mathematics of the page: dgtoy's formulas in plain JavaScript, without the page itself.
// tests/test_explorable.py runs both on the same input and compares.
// Points are flat arrays [x0, y0, x1, y1, ...]. A denoiser is a function D(x, sigma, out): it writes E[x0 | x] into out.
"use strict";

(function (dgtoy) {
  // ---- mixtures (dgtoy.gmm) ----

  const FIELDS = 12;                   // numbers a component needs at one noise level
  const NEGLIGIBLE = -40;              // exp(-40) is below the precision of a sum that contains 1

  class Mixture {
    // weights [K], means [[x, y]], covs [[xx, xy, yy]]
    constructor({ weights, means, covs }) {
      Object.assign(this, { weights, means, covs, size: weights.length });
      this.axes = covs.map(principal);
      this.tables = new Map();
      this.logits = new Float64Array(this.size);
    }

    // Component k blurred by sigma: its whitened coordinates, its log height, and its denoiser as an affine map A x + b.
    table(sigma) {
      if (this.tables.has(sigma)) return this.tables.get(sigma);
      if (this.tables.size > 500) this.tables.clear();   // a page that stays open for hours
      const table = new Float64Array(this.size * FIELDS);
      for (let k = 0; k < this.size; k++) table.set(component(this, k, sigma), k * FIELDS);
      this.tables.set(sigma, table);
      return table;
    }

    // Log densities of all components at one point, into this.logits; returns the largest.
    weigh(table, x, y) {
      let top = -Infinity;
      for (let k = 0, j = 0; k < this.size; k++, j += FIELDS) {
        const u = table[j + 1] * x + table[j + 2] * y + table[j + 3];
        const v = table[j + 4] * x + table[j + 5] * y + table[j + 6];
        const logit = table[j] - 0.5 * (u * u + v * v);
        this.logits[k] = logit;
        if (logit > top) top = logit;
      }
      return top;
    }

    denoise(x, sigma, out) {
      const table = this.table(sigma), logits = this.logits;
      for (let i = 0; i < x.length; i += 2) {
        const top = this.weigh(table, x[i], x[i + 1]);
        let sum = 0, bx = 0, by = 0, xx = 0, xy = 0, yy = 0;
        for (let k = 0, j = 7; k < this.size; k++, j += FIELDS) {
          const d = logits[k] - top;
          if (d < NEGLIGIBLE) continue;
          const r = Math.exp(d);
          sum += r;
          bx += r * table[j];
          by += r * table[j + 1];
          xx += r * table[j + 2];
          xy += r * table[j + 3];
          yy += r * table[j + 4];
        }
        out[i] = (bx + xx * x[i] + xy * x[i + 1]) / sum;
        out[i + 1] = (by + xy * x[i] + yy * x[i + 1]) / sum;
      }
      return out;
    }

    logp(x, sigma = 0) {
      const table = this.table(sigma), out = new Float64Array(x.length / 2);
      for (let i = 0; i < out.length; i++) {
        const top = this.weigh(table, x[2 * i], x[2 * i + 1]);
        let sum = 0;
        for (const logit of this.logits) sum += Math.exp(logit - top);
        out[i] = top + Math.log(sum);
      }
      return out;
    }

    sample(n, random) {
      const out = new Float64Array(2 * n);
      for (let i = 0; i < n; i++) {
        let k = 0;
        for (let u = random() - this.weights[0]; u > 0 && k + 1 < this.size; u -= this.weights[k]) k++;
        const { cos, sin, stds } = this.axes[k], [p, q] = normals(2, random);
        out[2 * i] = this.means[k][0] + cos * stds[0] * p - sin * stds[1] * q;
        out[2 * i + 1] = this.means[k][1] + sin * stds[0] * p + cos * stds[1] * q;
      }
      return out;
    }

    // Mean and standard deviation of the whole mixture, [x, y] each.
    moments() {
      const sum = (f) => this.weights.reduce((total, w, k) => total + w * f(k), 0);
      return [0, 1].map((d) => {
        const mean = sum((k) => this.means[k][d]);
        return { mean, std: Math.sqrt(sum((k) => this.covs[k][2 * d] + (this.means[k][d] - mean) ** 2)) };
      });
    }
  }

  // The principal axes of a covariance [xx, xy, yy]: (cos, sin) and (-sin, cos), with their standard deviations.
  function principal([xx, xy, yy]) {
    const angle = Math.atan2(2 * xy, xx - yy) / 2;
    const middle = (xx + yy) / 2, reach = Math.hypot((xx - yy) / 2, xy);
    return { cos: Math.cos(angle), sin: Math.sin(angle), stds: [Math.sqrt(middle + reach), Math.sqrt(middle - reach)] };
  }

  function component({ weights, means, axes }, k, sigma) {
    const { cos, sin, stds } = axes[k], [mx, my] = means[k];
    const [v, w] = stds.map((s) => s * s + sigma * sigma), a = Math.sqrt(v), b = Math.sqrt(w);
    const height = Math.log(weights[k]) - Math.log(2 * Math.PI * a * b);
    const whiten = [cos / a, sin / a, -(cos * mx + sin * my) / a, -sin / b, cos / b, (sin * mx - cos * my) / b];
    const g = (stds[0] * stds[0]) / v, h = (stds[1] * stds[1]) / w;           // how much of the noise each axis keeps
    const xx = g * cos * cos + h * sin * sin, xy = (g - h) * cos * sin, yy = g * sin * sin + h * cos * cos;
    return [height, ...whiten, mx - xx * mx - xy * my, my - xy * mx - yy * my, xx, xy, yy];
  }

  // ---- the three models (dgtoy.domains) ----

  // gap: the target's distance in units of 4, the source's half-width; breadth: the source's width.
  function makeWorld(name, gap = 0, breadth = 1) {
    const target = dgtoy.data.targets[name], source = dgtoy.data.sources[target.source], shift = 4 * gap;
    const moved = (m) => new Mixture({ ...m, means: m.means.map(([x, y]) => [x + shift, y]) });
    const world = {
      pre: new Mixture({
        weights: source.weights,
        means: source.means.map((m) => m.map((v) => v * breadth)),
        covs: source.covs.map((c) => c.map((v) => v * breadth * breadth)),
      }),
      domain: moved(target.domain),
      asked: moved(target.asked),
      stroke: target.stroke.map(([a, b, c, d]) => [a + shift, b, c + shift, d]),
      cut: target.cut,
      shift,
    };
    world.models = ["pre", "domain", "asked"].map((m) => (x, sigma, out) => world[m].denoise(x, sigma, out));
    world.widths = expectedWidths(world, target.across);
    return world;
  }

  // What the closed form needs, model by model: the width across the stroke, and mean and width of the whole, per axis.
  function expectedWidths({ pre, domain, asked }, across) {
    const [s, d, c] = [pre, domain, asked].map((m) => m.moments());
    const round = Math.sqrt((s[0].std ** 2 + s[1].std ** 2) / 2);
    return { across: [round, ...across], whole: [0, 1].map((axis) => [s[axis], d[axis], c[axis]]) };
  }

  // ---- guidance (dgtoy.guidance) ----

  // Weights of D_pre, D_null, D_c at a point of the plane. `learned` is how much of each step the fine-tune has learned:
  // stretching half a step twice is the whole step, so the two multiply.
  function weights(a, b, learned = [1, 1]) {
    const A = a * learned[0], B = b * learned[1];
    return [1 - A, A - B, B].map((w) => (Math.abs(w) < 1e-12 ? 0 : w));
  }

  // D_pre + a (D_null - D_pre) + b (D_c - D_null) inside the interval, a = b = 1 outside it.
  function plane(models, a, b, interval = [0, Infinity], learned = [1, 1]) {
    return mix(models, weights(a, b, learned), weights(1, 1, learned), interval);
  }

  // The sum of the models with these weights, one set inside the interval and one outside it.
  function mix(models, inside, outside, interval) {
    let spare = new Float64Array(0);
    return (x, sigma, out) => {
      if (spare.length !== x.length) spare = new Float64Array(x.length);
      out.fill(0);
      const active = sigma >= interval[0] && sigma <= interval[1] ? inside : outside;
      active.forEach((w, i) => {
        if (w === 0) return;                              // a model without weight is not asked
        models[i](x, sigma, spare);
        for (let j = 0; j < x.length; j++) out[j] += w * spare[j];
      });
      return out;
    };
  }

  // A model's own density, blurred by b: x + sigma^2 / s^2 (D(x, s) - x) with s^2 = sigma^2 + b^2.
  function blurred(model, b) {
    return (x, sigma, out) => {
      const s = Math.hypot(sigma, b), share = (sigma / s) ** 2;
      model(x, s, out);
      for (let j = 0; j < x.length; j++) out[j] = x[j] + share * (out[j] - x[j]);
      return out;
    };
  }

  // ---- sampling (dgtoy.schedules, dgtoy.samplers) ----

  function karras(n, lo, hi, rho = 7) {
    const from = hi ** (1 / rho), to = lo ** (1 / rho);
    const levels = Array.from({ length: n }, (_, i) => (from + (n > 1 ? i / (n - 1) : 0) * (to - from)) ** rho);
    return [...levels, 0];
  }

  // A generator over x, as in dgtoy; the array it yields is its own and changes with the next step.
  function* heun(D, start, sigmas) {
    const x = Float64Array.from(start), n = x.length;
    const [x0, slope, ahead] = [0, 1, 2].map(() => new Float64Array(n));
    for (let i = 0; i + 1 < sigmas.length; i++) {
      const s = sigmas[i], t = sigmas[i + 1], h = t - s;
      D(x, s, x0);
      for (let j = 0; j < n; j++) {
        slope[j] = (x[j] - x0[j]) / s;
        ahead[j] = x[j] + h * slope[j];
      }
      if (t > 0) {
        D(ahead, t, x0);
        for (let j = 0; j < n; j++) x[j] += (h * (slope[j] + (ahead[j] - x0[j]) / t)) / 2;
      } else x.set(ahead);
      yield x;
    }
  }

  function last(steps) {
    let x;
    for (x of steps);
    return x;
  }

  // ---- closed form (dgtoy.theory) ----

  // End std of a Gaussian whose score is sum_i w_i (x - mean_i) / (std_i^2 + sigma^2): prod_i std_i^w_i over all sigma.
  // `inside` acts for sigma in the interval, `outside` elsewhere.
  function endStd(stds, inside, outside, interval = [0, Infinity]) {
    const far = 1e9 * Math.max(...stds);                  // x / sigma is standard normal out there
    return far / Math.exp(growth(stds, inside, outside, interval)(far));
  }

  // The function log Phi(sigma) / Phi(0): how far paths spread from sigma = 0 to sigma.
  function growth(stds, inside, outside, [lo, hi]) {
    const between = (weights, s, t) =>
      t > s ? stds.reduce((sum, d, i) => sum + (weights[i] * Math.log((d * d + t * t) / (d * d + s * s))) / 2, 0) : 0;
    return (sigma) =>
      between(outside, 0, Math.min(sigma, lo)) + between(inside, lo, Math.min(sigma, hi)) + between(outside, hi, sigma);
  }

  // End mean: int_0^inf Phi(0)/Phi(sigma) sigma sum_i w_i mean_i / (std_i^2 + sigma^2) dsigma, around the last model's mean.
  function endMean(means, stds, inside, outside, interval = [0, Infinity]) {
    const centre = means[means.length - 1], spread = growth(stds, inside, outside, interval);
    const [lo, hi] = [1e-6 * Math.min(...stds), 1e6 * Math.max(...stds)];
    const cuts = [...new Set([lo, hi, ...interval.map((v) => Math.min(Math.max(v, lo), hi))])].sort((a, b) => a - b);
    let mean = centre;
    for (let i = 0; i + 1 < cuts.length; i++) {
      const active = cuts[i] >= interval[0] && cuts[i] < interval[1] ? inside : outside;
      mean += simpson((v) => {                            // over v = ln sigma: every scale counts alike
        const sigma = Math.exp(v);
        const pull = stds.reduce((sum, d, j) => sum + (active[j] * (means[j] - centre)) / (d * d + sigma * sigma), 0);
        return Math.exp(-spread(sigma)) * sigma * sigma * pull;
      }, Math.log(cuts[i]), Math.log(cuts[i + 1]));
    }
    return mean;
  }

  function simpson(f, from, to) {
    const n = 2 * Math.ceil((to - from) / 0.1), h = (to - from) / n;
    let sum = f(from) + f(to);
    for (let i = 1; i < n; i++) sum += (i % 2 ? 4 : 2) * f(from + i * h);
    return (sum * h) / 3;
  }

  // ---- measures (dgtoy.metrics) ----

  function outOfDomain(x, mixture, cut) {
    return mixture.logp(x).reduce((count, logp) => count + (logp < cut), 0) / (x.length / 2);
  }

  // Sum of distances between all points of x and all points of y, or between all pairs of x.
  function distances(x, y = null) {
    let sum = 0;
    const others = y ?? x;
    for (let i = 0; i < x.length; i += 2) {
      for (let j = y ? 0 : i + 2; j < others.length; j += 2) {
        const p = x[i] - others[j], q = x[i + 1] - others[j + 1];
        sum += Math.sqrt(p * p + q * q);
      }
    }
    return sum;
  }

  const meanWithin = (x, n = x.length / 2) => (2 * distances(x)) / (n * (n - 1));

  // Unbiased; `within` is meanWithin(y), which need not be computed again for the same truth.
  function energyDistance(x, y, within = meanWithin(y)) {
    return (2 * distances(x, y)) / ((x.length / 2) * (y.length / 2)) - meanWithin(x) - within;
  }

  // Width of the samples across the stroke, about their own line, which may have moved: the median distance from the mean
  // of all samples that belong to the same segment, scaled so that a Gaussian gives its std.
  function thickness(x, stroke) {
    const found = Array.from({ length: x.length / 2 }, (_, i) => nearest(x[2 * i], x[2 * i + 1], stroke));
    const groups = stroke.map((_, k) => found.filter((f) => f.k === k));
    const far = groups.flatMap((group) => {
      const [p, q] = ["p", "q"].map((d) => group.reduce((sum, f) => sum + f[d], 0) / group.length);
      return group.map((f) => Math.hypot(f.p - p, f.q - q));
    });
    const points = stroke.every(([a, b, c, d]) => a === c && b === d);
    const median = points ? Math.sqrt(Math.log(4)) : 0.67449;                 // of |N(0, I)| in two directions, in one
    return Float64Array.from(far).sort()[far.length >> 1] / median;
  }

  // The segment k nearest to a point, and the way (p, q) from it to the point.
  function nearest(x, y, segments) {
    let best = { square: Infinity };
    segments.forEach(([ax, ay, bx, by], k) => {
      const dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
      const t = length ? Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / length)) : 0;
      const p = x - ax - t * dx, q = y - ay - t * dy, square = p * p + q * q;
      if (square < best.square) best = { square, k, p, q };
    });
    return best;
  }

  // ---- chance ----

  // A small seeded generator of uniforms in (0, 1): a multiply-and-xorshift hash of a counter.
  function seeded(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x9e3779b9) >>> 0;
      let z = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      return ((z ^ (z >>> 16)) >>> 0) / 2 ** 32 + 2 ** -33;
    };
  }

  // The same, but spread as evenly as can be, pair by pair: few points then measure like many. Roberts' R2 sequence, 2018.
  function even() {
    const g = 1.324717957244746;                           // g^3 = g + 1
    let i = 0;
    return () => (0.5 + (1 + (i >> 1)) / (i++ % 2 ? g * g : g)) % 1;
  }

  // n normals (n even), two from each pair of uniforms. Box & Muller 1958.
  function normals(n, random) {
    const out = new Float64Array(n);
    for (let i = 0; i < n; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(random())), angle = 2 * Math.PI * random();
      out[i] = radius * Math.cos(angle);
      out[i + 1] = radius * Math.sin(angle);
    }
    return out;
  }

  // ---- contours ----

  // log p on an n x n grid over [x - reach, x + reach] x [y - reach, y + reach], row by row.
  function grid(mixture, [x, y], reach, n) {
    const points = new Float64Array(2 * n * n), at = (i) => reach * ((2 * i) / (n - 1) - 1);
    for (let i = 0; i < n * n; i++) points.set([x + at(i % n), y + at(Math.floor(i / n))], 2 * i);
    return { values: mixture.logp(points), n, centre: [x, y], reach };
  }

  // The height whose contour encloses this share of the mass on the grid, as dgtoy.plot.contours finds it.
  function heightOf({ values }, share) {
    const sorted = Float64Array.from(values).sort().reverse(), mass = sorted.reduce((sum, v) => sum + Math.exp(v), 0);
    let inside = 0, i = 0;
    while (i + 1 < sorted.length && inside + Math.exp(sorted[i]) < share * mass) inside += Math.exp(sorted[i++]);
    return sorted[i];
  }

  // Marching squares: where the grid crosses the height, as segments [x1, y1, x2, y2].
  function contour({ values, n, centre, reach }, height) {
    const step = (2 * reach) / (n - 1), segments = [];
    const place = (i, j) => [centre[0] - reach + step * i, centre[1] - reach + step * j];
    const crossing = ([i, j], [k, l]) => {
      const p = values[j * n + i], q = values[l * n + k];
      if (p > height === q > height) return null;
      const t = (height - p) / (q - p);
      return place(i + t * (k - i), j + t * (l - j));
    };
    for (let j = 0; j + 1 < n; j++) {
      for (let i = 0; i + 1 < n; i++) {
        const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
        const hits = corners.map((c, k) => crossing(c, corners[(k + 1) % 4])).filter(Boolean);
        for (let k = 0; k + 1 < hits.length; k += 2) segments.push([...hits[k], ...hits[k + 1]]);
      }
    }
    return segments;
  }

  Object.assign(dgtoy, { Mixture, makeWorld, weights, plane, mix, blurred, karras, heun, last, endStd, endMean, outOfDomain, energyDistance,
    meanWithin, thickness, seeded, even, normals, grid, heightOf, contour });
})(globalThis.dgtoy);
