"""Beyond Gaussians: does each direction narrow as the closed form says, and under DoG alone? (C31)

No networks: every density is known. A target has a shape, two classes, and the same std in a direction
whatever its shape; its source is a Gaussian, broader in half of the directions and narrower in the others.
Four guides move the same samples: the source (DoG), both classes (CFG), the best linear denoiser of the class
(autoguidance), and the class's own density blurred.
"""

import dataclasses
import functools

import numpy as np
import torch
from torch.special import log_ndtr

from ...checks import append_dims
from ...gmm import GaussianMixture
from ...guidance import blurred
from .. import plot
from ..lab import Presets
from ..records import rows
from .directions import listed, narrowing, walk
from .panels import frame
from .runs import recorded

GUIDES = ("DoG", "CFG", "autoguidance", "blurred self")


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """Random problems, one for each seed and shape, of `dims` directions; `points` samples at weight w."""

    seeds: int = 2
    points: int = 256
    dims: int = 6
    w: float = 2.0
    steps: int = 120

    @classmethod
    def full(cls):
        return cls(seeds=12, points=512, dims=8, steps=300)


class Boxes:
    """Uniform densities on boxes of half-widths `half` (D,) around each of `means` (K, D), equally likely."""

    def __init__(self, means, half):
        self.means, self.half = means, half

    def denoise(self, x, sigma):
        """E[x0 | x]: of one box, along each axis, the mean of a normal law cut off at the walls.
        x (N, D), sigma () -> (N, D)"""
        x, sigma = x[:, None], append_dims(sigma, x[:, None])
        low, high = ((self.means + side * self.half - x) / sigma for side in (-1, 1))  # (N, K, D)
        log_mass = _log_between(low, high)
        inside = x + sigma * (_normal(low, log_mass) - _normal(high, log_mass))
        share = log_mass.sum(-1, keepdim=True).softmax(1)  # (N, K, 1)
        return (share * inside).sum(1)


def _log_between(low, high):
    """The log of a standard normal's mass between low and high, exact in either tail."""
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    top = log_ndtr(high)
    return top + (-torch.expm1(log_ndtr(low) - top)).log()


def _normal(z, log_mass):
    """The standard normal density at z, relative to a mass."""
    return torch.exp(-(z**2) / 2 - np.log(2 * np.pi) / 2 - log_mass)


def gaussian(g, centres, std):
    """Each class is one Gaussian around its centre."""
    return _mixture([(1.0, centre, std) for centre in centres])


def uniform(g, centres, std):
    """Each class fills a box around its centre evenly."""
    return Boxes(centres, 3**0.5 * std)


def clusters(g, centres, std):
    """Each class is four small clusters, in places at random: a tenth of its std wide."""
    parts = []
    for centre in centres:
        places = torch.from_numpy(g.normal(size=(4, len(std))))
        places = (places - places.mean(0)) / places.std(0, correction=0) * 0.99**0.5
        parts += [(0.25, centre + std * place, 0.1 * std) for place in places]
    return _mixture(parts)


def two_scales(g, centres, std):
    """Each class is half a narrow Gaussian, half a broad one around it: heavy tails."""
    scales = (0.4, (2 - 0.4**2) ** 0.5)
    return _mixture([(0.5, centre, scale * std) for centre in centres for scale in scales])


SHAPES = {"Gaussian": gaussian, "uniform": uniform, "clusters": clusters, "two scales": two_scales}


def _mixture(parts):
    """The mixture of Gaussians (weight, mean (D,), std (D,)), with axes in common."""
    weights, means, stds = zip(*parts)
    return GaussianMixture(torch.tensor(weights) / sum(weights), torch.stack(means), _covs(stds))


def _covs(stds):
    return torch.stack([torch.diag(std**2) for std in stds])


@functools.partial(recorded, where="cpu")
def run(config, device, progress):
    """Rows of shape, seed, method, each with a number for every direction, in float64.

    `change` of log std since the first level, that which the `law` gives, the guide's `push`; the change that
    a guide `made` of no guidance, the same `foretold` by its own closed form and `by_DoG`'s.
    """
    for shape in SHAPES:
        for seed in range(config.seeds):
            yield from moved(config, shape, seed)


def moved(config, shape, seed):
    """The rows of one problem."""
    std, of_guide, main, guides, start = problem(config, shape, seed)
    closed = {name: (config.w - 1) * (std / of_guide[name]).log() for name in GUIDES}
    smallest, largest = std.min().item(), max(s.max().item() for s in of_guide.values())
    sigmas = torch.logspace(np.log10(100 * largest), np.log10(1e-3 * smallest), config.steps + 1).double()
    along = functools.partial(
        walk, x_T=sigmas[0] * start, sigmas=sigmas, axes=torch.eye(config.dims).double()
    )
    none = narrowing(along(main, None, 1.0), sigmas, 1.0)
    yield dict(shape=shape, seed=seed, method="none", std=none["std"], **_law(none))
    for name in GUIDES:
        found = narrowing(along(main, guides[name], config.w), sigmas, config.w)
        made = np.log(found["std"]) - np.log(none["std"])
        yield dict(
            shape=shape,
            seed=seed,
            method=name,
            made=listed(made),
            foretold=listed(closed[name]),
            by_DoG=listed(closed["DoG"]),
            push=found["push"],
            **_law(found),
        )


def _law(found):
    return dict(change=found["change"], law=found["law"])


def problem(config, shape, seed):
    """A random target and its source.

    -> std (D,) within a class, std of each guide by name, the class's denoiser, guides by name, noise (n, D)
    """
    g = np.random.default_rng([seed, *shape.encode()])
    half = config.dims // 2
    std = torch.from_numpy(np.exp(g.uniform(np.log(0.1), 0, config.dims)))
    broader, narrower = g.uniform(0, np.log(16), half), g.uniform(-np.log(4), 0, config.dims - half)
    of_source = std * torch.from_numpy(np.exp(np.concatenate([broader, narrower])))
    apart = std * torch.from_numpy(g.normal(size=config.dims))  # from a class to the middle of both
    centres = torch.stack([-apart, apart])
    main = SHAPES[shape](np.random.default_rng([seed, 0]), centres[:1], std)
    both = SHAPES[shape](np.random.default_rng([seed, 0]), centres, std)
    b = std.log().mean().exp().item()
    guides = {
        "DoG": _mixture([(1.0, torch.zeros_like(std), of_source)]).denoise,
        "CFG": both.denoise,
        "autoguidance": _mixture([(1.0, centres[0], std)]).denoise,
        "blurred self": blurred(main.denoise, b),
    }
    of_guide = {
        "DoG": of_source,
        "CFG": torch.hypot(std, apart),
        "autoguidance": std,
        "blurred self": torch.hypot(std, torch.tensor(b).double()),
    }
    noise = torch.from_numpy(g.normal(size=(config.points, config.dims)))
    return std, of_guide, main.denoise, guides, noise


def forecasts(record, shape, method, by="foretold"):
    """What a closed form foretells and what the guide made, direction by direction.  -> (S, dims) each"""
    found = rows(record, shape=shape, method=method)
    return np.array([r[by] for r in found]), np.array([r["made"] for r in found])


def amount(foretold, made):
    """The slope of what was made on what was foretold, through no guidance.  (S, dims) each -> (S,)"""
    return (foretold * made).sum(1) / (foretold**2).sum(1)


def order(foretold, made):
    """The correlation over directions, 0 where nothing moved.  (S, dims) each -> (S,)"""
    return np.array([np.corrcoef(x, y)[0, 1] if np.ptp(y) > 1e-6 else 0.0 for x, y in zip(foretold, made)])


def figure(record):
    """What each guide made of each direction against DoG's closed form, by shape of the target."""
    n, w = record["config"]["seeds"], record["config"]["w"]
    foot = f"w = {w:g}; {n} random problems for each shape, a dot for each direction; exact densities"
    with frame(list(SHAPES), (4.6 * len(SHAPES), 4.8), foot, sharey=True) as (fig, axes):
        for ax, shape in zip(axes, SHAPES, strict=True):
            draw(ax, record, shape)
        axes[0].set_ylabel("made: change of ln std")
        axes[0].legend(fontsize=11)
        fig.suptitle(
            "The closed form is exact for Gaussians; how far it carries depends on the shape",
            x=0.01,
            ha="left",
        )
    return fig


def draw(ax, record, shape, methods=GUIDES):
    """The changes that each guide made against the closed form of DoG, which is the line."""
    for method in methods:
        look = plot.METHODS[method] | dict(linestyle="", alpha=0.5, markersize=4)
        foretold, made = forecasts(record, shape, method, "by_DoG")
        ax.plot(foretold.ravel(), made.ravel(), label=method, **look)
    ax.axline((0, 0), slope=1, color="black", linewidth=1)
    ax.set(xlabel="DoG's closed form, (w − 1) ln (s_T / s_S)", ylim=(-4, 3))
