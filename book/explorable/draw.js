// Drawing on canvases: the data behind, the particles in front.
"use strict";

(function (dgtoy) {
  const SHARE = 0.9;                                       // of the mass, inside each contour
  const ELLIPSE = Math.sqrt(-2 * Math.log(1 - SHARE));     // radius that holds this share of a 2-D Gaussian
  const SIDE = { source: 200, target: 220 };               // grid points; a target's strokes are thin
  const ASPECT = 4 / 3;

  // ---- what is drawn behind: computed once a world, at gap 0 and breadth 1, then moved and stretched ----

  const scenery = new Map();

  function sceneryOf(name) {
    if (!scenery.has(name)) {
      const world = dgtoy.makeWorld(name), reach = name === "gaussians" ? 4.5 : 2.2, source = dgtoy.grid(world.pre, [0, 0], 6, SIDE.source);
      scenery.set(name, {
        shade: shadeOf(source),
        source: outline(source),
        domain: outline(dgtoy.grid(world.domain, [0, 0], reach, SIDE.target)),
        asked: outline(dgtoy.grid(world.asked, [0, 0], reach, SIDE.target)),
      });
    }
    return scenery.get(name);
  }

  function outline(grid) {
    const path = new Path2D();
    for (const [a, b, c, d] of dgtoy.contour(grid, dgtoy.heightOf(grid, SHARE))) {
      path.moveTo(a, b);
      path.lineTo(c, d);
    }
    return path;
  }

  // The inside of a contour as an image; its colour comes later, with the theme.
  function shadeOf(grid) {
    const { values, n, reach } = grid, height = dgtoy.heightOf(grid, SHARE);
    const canvas = Object.assign(document.createElement("canvas"), { width: n, height: n }), image = new ImageData(n, n);
    values.forEach((v, i) => { image.data[4 * i + 3] = v > height ? 255 : 0; });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return { canvas, reach };
  }

  // ---- the camera ----

  // Centre (x, 0) and half the width of what is seen.
  function camera(flow, view) {
    const { shift } = flow.world, { breadth, world } = flow.params;
    if (view === "target") return { x: shift, reach: world === "gaussians" ? 3.4 : 2.3 };
    const left = -4.8 * breadth, right = Math.max(4.8 * breadth, shift + 3.6);
    return { x: (left + right) / 2, reach: Math.max((right - left) / 2, 4.8 * breadth * ASPECT, 3.4) };
  }

  // Noise of level sigma is drawn shrunk about the camera's centre, so that it fits the frame; data are drawn as they are.
  function shrink(camera, sigma) {
    const room = camera.reach / 2.6;
    return room / Math.hypot(room, sigma);
  }

  // ---- canvases ----

  // The canvas at the size that it is shown at; one that is not shown keeps its size, as without one it cannot be drawn.
  function fit(canvas) {
    const ratio = Math.min(window.devicePixelRatio || 1, 2), width = Math.round(canvas.clientWidth * ratio);
    if (width && canvas.width !== width) Object.assign(canvas, { width, height: Math.round(width / ASPECT) });
    return { ctx: canvas.getContext("2d"), size: [canvas.width, canvas.height], ratio };
  }

  // From the world to pixels, y upwards: scale, and the pixel of the origin.
  function projection({ x, reach }, [width, height]) {
    const scale = width / (2 * reach);
    return { scale, x: width / 2 - x * scale, y: height / 2 };
  }

  // The picture behind all panels, redrawn only when something in it changed.
  function backdrop(flow, cam, size, ratio, colours) {
    const { world, gap, breadth } = flow.params, key = JSON.stringify([world, gap, breadth, cam, size, colours]);
    if (backdrop.key === key) return backdrop.canvas;
    const canvas = (backdrop.canvas ??= document.createElement("canvas")), ctx = canvas.getContext("2d"), p = projection(cam, size);
    [canvas.width, canvas.height] = size;
    const draw = (stretch, shift, paint) => {
      ctx.setTransform(p.scale * stretch, 0, 0, -p.scale * stretch, p.x + p.scale * shift, p.y);
      paint(ratio / (p.scale * stretch));                  // the size of a CSS pixel
    };
    const line = (path, width, colour) => (pixel) => {
      Object.assign(ctx, { lineWidth: width * pixel, strokeStyle: colour, lineCap: "round" });
      ctx.stroke(path);
    };
    const { shade, source, domain, asked } = sceneryOf(world);
    draw(breadth, 0, () => stamp(ctx, shade, size, colours.source));
    draw(breadth, 0, line(source, 0.8, colours.source));
    draw(1, flow.world.shift, line(domain, 1, colours.ink));
    draw(1, flow.world.shift, line(asked, 2.2, colours.ink));
    backdrop.key = key;
    return canvas;
  }

  // The source's region in its colour, faint.
  function stamp(ctx, { canvas, reach }, size, colour) {
    ctx.globalAlpha = 0.22;
    ctx.drawImage(canvas, -reach, -reach, 2 * reach, 2 * reach);
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    Object.assign(ctx, { globalAlpha: 1, globalCompositeOperation: "source-in", fillStyle: colour });
    ctx.fillRect(0, 0, ...size);
    ctx.globalCompositeOperation = "source-over";
  }

  // One panel at time u. trail: how far back in time the particles' tails reach; traced: a particle to follow, or null.
  // Returns how many particles lie outside the frame.
  function panel(canvas, flow, method, { u, trail, view, traced, colours }) {
    const { ctx, size, ratio } = fit(canvas), cam = camera(flow, view), p = projection(cam, size), colour = colours[method.name];
    ctx.clearRect(0, 0, ...size);
    ctx.drawImage(backdrop(flow, cam, size, ratio, colours), 0, 0);
    const now = place(flow, method, u, cam, p);
    if (trail > 0 && u > 0) tails(ctx, now, place(flow, method, Math.max(0, u - trail), cam, p), colour, ratio);
    dots(ctx, now, colour, Math.max(1.2 * ratio, size[0] / 140));
    if (flow.params.world === "gaussians") ellipse(ctx, flow.predictedEllipse(method.inside), p, ratio, colours.formula);
    if (traced !== null && traced < method.valid) follow(ctx, wayOf(flow, method, u, traced, cam, p), ratio, colours);
    return outsideFrame(now, size);
  }

  // Pixel positions of a method's particles at time u.
  function place(flow, method, u, cam, p) {
    const { from, to, f, sigma } = flow.at(method, u), k = shrink(cam, sigma), out = new Float32Array(2 * method.valid);
    for (let i = 0; i < out.length; i += 2) {
      const x = from[i] + f * (to[i] - from[i]), y = from[i + 1] + f * (to[i + 1] - from[i + 1]);
      out[i] = p.x + p.scale * (cam.x + k * (x - cam.x));
      out[i + 1] = p.y - p.scale * k * y;
    }
    return out;
  }

  function dots(ctx, at, colour, size) {
    Object.assign(ctx, { fillStyle: colour, globalAlpha: 0.55 });
    for (let i = 0; i < at.length; i += 2) ctx.fillRect(at[i] - size / 2, at[i + 1] - size / 2, size, size);
    ctx.globalAlpha = 1;
  }

  function tails(ctx, at, before, colour, ratio) {
    Object.assign(ctx, { strokeStyle: colour, globalAlpha: 0.22, lineWidth: ratio });
    ctx.beginPath();
    for (let i = 0; i < at.length; i += 2) {
      ctx.moveTo(before[i], before[i + 1]);
      ctx.lineTo(at[i], at[i + 1]);
    }
    ctx.stroke();
    ctx.globalAlpha = 1;
  }

  // Where the closed form puts 90% of the samples.
  function ellipse(ctx, { centre, stds }, p, ratio, colour) {
    const [rx, ry] = stds.map((s) => Math.max(ELLIPSE * s * p.scale, ratio));
    Object.assign(ctx, { strokeStyle: colour, lineWidth: 2 * ratio });
    ctx.setLineDash([5 * ratio, 4 * ratio]);
    ctx.beginPath();
    ctx.ellipse(p.x + p.scale * centre[0], p.y - p.scale * centre[1], rx, ry, 0, 0, 2 * Math.PI);
    ctx.stroke();
    ctx.setLineDash([]);
  }

  // One particle's pixels from noise up to time u.
  function wayOf(flow, method, u, traced, cam, p) {
    return Array.from({ length: 120 }, (_, i) => {
      const { from, to, f, sigma } = flow.at(method, (u * i) / 119), k = shrink(cam, sigma);
      const [x, y] = [0, 1].map((d) => from[2 * traced + d] + f * (to[2 * traced + d] - from[2 * traced + d]));
      return [p.x + p.scale * (cam.x + k * (x - cam.x)), p.y - p.scale * k * y];
    });
  }

  function follow(ctx, way, ratio, colours) {
    for (const [width, colour] of [[4, colours.paper], [1.6, colours.ink]]) {             // a light edge keeps it legible on dots
      Object.assign(ctx, { strokeStyle: colour, lineWidth: width * ratio, lineJoin: "round" });
      ctx.beginPath();
      way.forEach(([x, y]) => ctx.lineTo(x, y));
      ctx.stroke();
      ctx.beginPath();
      ctx.arc(...way.at(-1), 5 * ratio, 0, 2 * Math.PI);
      ctx.stroke();
    }
  }

  function outsideFrame(at, [width, height]) {
    let count = 0;
    for (let i = 0; i < at.length; i += 2) count += at[i] < 0 || at[i] > width || at[i + 1] < 0 || at[i + 1] > height;
    return count;
  }

  // The particle nearest to a place on a panel, given in CSS pixels.
  function pick(canvas, flow, method, { u, view }, x, y) {
    const { size, ratio } = fit(canvas), cam = camera(flow, view), at = place(flow, method, u, cam, projection(cam, size));
    let best = Infinity, found = null;
    for (let i = 0; i < at.length; i += 2) {
      const far = Math.hypot(at[i] - x * ratio, at[i + 1] - y * ratio);
      if (far < best) [best, found] = [far, i / 2];
    }
    return found;
  }

  Object.assign(dgtoy, { panel, pick });
})(globalThis.dgtoy);
