"""How wide should the blur of the blurred self be, and does it ever overshoot? Exact densities. (C32)

The model is the exact target but for strays: a share of its samples, around the strokes and several times as
wide. So there is something to remove, and the truth is known. b is given in strokes: in stds of the target's
narrow direction.
"""

import dataclasses
import functools

import numpy as np
import torch

from ...checks import append_dims
from ...gmm import LabelledMixture
from ...guidance import blurred
from .. import plot
from ..lab import PointJudge, PointSetting, Presets, methods
from ..records import family, values
from ..tradeoff import at_equal_cost
from ..worlds.domains import STD
from .panels import frame
from .runs import recorded

KEPT = 4.0  # strokes: the blur that is tried everywhere
RIVALS = ("none", "CFG", "DoG", "autoguidance")
INSIDE = ("moons", "thick moons", "spirals", "far strays")


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """`worlds`: name, (domain, gap, breadth), width of a stroke relative to `domains.STD`, width of strays
    relative to the stroke. `strays`: their share; `weaker`: their share in the guide of autoguidance.
    `widths`: b in strokes, of which worlds that are not INSIDE see only KEPT. `held_out` points per class
    at each of `levels`, in strokes."""

    seeds: int = 2
    samples: int = 64
    steps: int = 16
    worlds: tuple = (
        ("moons", ("moons", 0.0, 1.0), 1.0, 3.0),
        ("thick moons", ("moons", 0.0, 1.0), 2.0, 3.0),
        ("spirals", ("spirals", 0.0, 1.0), 1.0, 3.0),
        ("far strays", ("moons", 0.0, 1.0), 1.0, 6.0),
        ("far source", ("moons", 1.5, 1.0), 1.0, 3.0),
        ("narrow source", ("moons", 0.0, 0.25), 1.0, 3.0),
    )
    strays: float = 0.08
    weaker: float = 0.5
    widths: tuple = (1.0, KEPT)
    weights: tuple = (1.25, 2.0)
    held_out: int = 64
    levels: tuple = (4.0, 2.0, 1.0, 0.5, 0.25)

    @classmethod
    def full(cls):
        """For one core of a CPU: two minutes."""
        widths, weights = (0.5, 1.0, 2.0, KEPT, 8.0, 16.0, 32.0), (1.1, 1.25, 1.5, 2.0)
        return cls(seeds=4, samples=128, steps=32, widths=widths, weights=weights, held_out=2048)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stroked(PointSetting):
    """Points whose target has strokes `stroke` times as wide."""

    stroke: float = 1.0

    def world(self, device="cpu", seed=0):
        known = super().world(device, seed)
        target = known.target
        wider = LabelledMixture(target.weights, target.means, self.stroke**2 * target.covs, target.labels)
        return dataclasses.replace(known, target=wider)


def with_strays(target, share, width):
    """The target of which a share is blurred by `width`: labelled, known, and imperfect."""
    weights = torch.cat([(1 - share) * target.weights, share * target.weights])
    covs = torch.cat([target.covs, target.covs + width**2 * torch.eye(2)])
    return LabelledMixture(weights, torch.cat([target.means] * 2), covs, torch.cat([target.labels] * 2))


@functools.partial(recorded, where="cpu")
def run(config, device, progress):
    """Rows of world, method, b (in strokes), w and each metric by seed, `shift` among them; `fits`: the
    `gain` of held-out points by world and b."""
    found, fits = [], []
    for name, place, stroke, stray in config.worlds:
        setting = _setting(config, place, stroke)
        judge, wide = PointJudge(setting), stray * stroke * STD
        main, weaker = (with_strays(judge.target, share, wide) for share in (config.strays, config.weaker))
        tried = [(0.0, m) for m in methods(main, setting.source(), config.weights, RIVALS, weaker=weaker)]
        for b in config.widths if name in INSIDE else (KEPT,):
            width = b * stroke * STD
            tried += [(b, m) for m in methods(main, None, config.weights, ("blurred self",), b=width)]
            fits.append(dict(world=name, b=b, gain=_gains(config, judge, main, width, stroke * STD)))
        for b, (method, w, guided) in tried:
            x = judge.sample(guided)
            score = judge.score(x) | dict(shift=shift(x, judge.parts))
            found.append(dict(world=name, method=method, b=b, w=w, **score))
    return dict(rows=found, fits=fits)


def _setting(config, place, stroke):
    domain, gap, breadth = place
    return Stroked(
        seeds=config.seeds,
        layout=None,
        domain=domain,
        gap=gap,
        breadth=breadth,
        stroke=stroke,
        samples=config.samples,
        steps=config.steps,
    )


def shift(x, parts):
    """How much farther out than the truth's the mean of a class's samples lies, seen from the source's middle
    at 0, in stds of the class; averaged over classes.  x (classes, S, n, 2) -> [S floats]"""
    outwards = []
    for samples, part in zip(x.double(), parts, strict=True):
        centre = part.weights @ part.means
        spread = part.weights @ (part.covs.diagonal(dim1=1, dim2=2) + (part.means - centre) ** 2)
        off = (samples.mean(1) - centre) @ (centre / centre.norm())  # (S,)
        outwards.append(off / spread.mean().sqrt())
    return [round(v, 6) for v in torch.stack(outwards).mean(0).tolist()]


def _gains(config, judge, main, b, stroke):
    """By how much the best weight at each level brings the guided model closer to held-out points, in
    the score's squared error, summed over levels; weights below 1 gain nothing.  -> [S floats]"""
    gains = []
    for seed in range(config.seeds):
        g, total = torch.Generator().manual_seed(700_000 + seed), 0.0
        for c, part in enumerate(judge.parts):
            x0, D = part.sample(config.held_out, generator=g), main.denoiser(c)
            guide = blurred(D, b)
            for level in config.levels:
                sigma = torch.tensor(level * stroke)
                x = x0 + append_dims(sigma, x0) * torch.randn(x0.shape, generator=g)
                guess = D(x, sigma)
                step = guess - guide(x, sigma)
                along = ((x0 - guess) * step).sum().clamp(min=0) / len(x0)
                total += (along**2 / step.square().sum() * len(x0) / sigma**2).item()
        gains.append(round(total / len(judge.parts), 8))
    return gains


def of_blur(record, world, b):
    """The blurred self at one b over all weights, that of no guidance first."""
    return [r for r in family(record, "blurred self", world=world) if r["method"] == "none" or r["b"] == b]


def best_blur(record, world):
    """The b, in strokes, of least area, by seed.  -> (S,)"""
    widths = record["config"]["widths"]
    return np.array(widths)[np.argmin([at_equal_cost(of_blur(record, world, b)) for b in widths], axis=0)]


def held_out_blur(record, world):
    """The b, in strokes, from which held-out points gain most."""
    fits = [f for f in record["results"]["fits"] if f["world"] == world]
    return max(fits, key=lambda f: np.mean(f["gain"]))["b"]


def figure(record):
    """The map of b and w, what each b leaves at equal cost, and who overshoots."""
    config = record["config"]
    titles = ("Outside the target", "Thickness", "Outside, at equal match and thickness", "Who overshoots?")
    foot = f"exact densities with {config['strays']:.0%} strays; {len(record['seeds'])} sources; left: moons"
    with frame(titles, (20, 5), foot) as (fig, axes):
        for ax, metric in zip(axes, ("out_of_domain", "thickness")):
            draw_map(ax, record, metric)
        draw_widths(axes[2], record)
        draw_shift(axes[3], record)
    return fig


def draw_map(ax, record, metric):
    """A metric over b and w, on the moons."""
    config = record["config"]
    at = lambda **where: values(record, metric, world="moons", method="blurred self", **where).mean()
    table = [[at(b=b, w=w) for b in config["widths"]] for w in config["weights"]]
    plot.heat(ax, config["widths"], config["weights"], table, None, bar=False)
    ax.set(xlabel="blur b / stroke", ylabel="guidance weight w")


def draw_widths(ax, record):
    """The area under the trade-off of each b relative to no guidance, a line for each world of INSIDE."""
    widths, dashes = record["config"]["widths"], ("-", "--", "-.", ":")
    for world, dash in zip(INSIDE, dashes, strict=True):
        none = values(record, "out_of_domain", world=world, method="none").mean()
        look = plot.METHODS["blurred self"] | dict(linestyle=dash)
        outside = [at_equal_cost(of_blur(record, world, b)).mean() for b in widths]
        ax.plot(widths, outside / none, label=world, **look)
    ax.set(xscale="log", xlabel="blur b / stroke", ylabel="relative to no guidance")
    ax.set_xticks(widths, [f"{b:g}" for b in widths])
    ax.minorticks_off()
    ax.legend(fontsize=11)


def draw_shift(ax, record):
    """How far means are driven outwards over w, where the source is far and where it is narrow."""
    for world, dash in (("far source", "-"), ("narrow source", "--")):
        for method in ("DoG", "blurred self"):
            found = family(record, method, world=world)
            means = [np.mean(r["shift"]) for r in found]
            look = plot.METHODS[method] | dict(linestyle=dash)
            ax.plot([r["w"] for r in found], means, label=f"{method}, {world}", **look)
    ax.set(xlabel="guidance weight w", ylabel="shift of the mean, in stds of a class")
    ax.legend(fontsize=11)
