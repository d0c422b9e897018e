"""Exact scores, no networks: the decomposition (C1), what guidance samples (C2), what
it does to each direction (C3)."""

import dataclasses
import functools

import numpy as np
import torch

from ... import theory
from ...gmm import GaussianMixture, LabelledMixture
from ...guidance import guided
from ...samplers import heun, karras, last
from .. import plot
from ..lab import Presets
from ..records import rows
from .panels import frame
from .runs import recorded


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """Random problems, one for each seed."""

    seeds: int = 12
    points: int = 256
    steps: int = 150

    @classmethod
    def full(cls):
        return cls(seeds=64, points=2048, steps=400)


@functools.partial(recorded, where="cpu")
def run(config, device, progress):
    """Rows of claim and seed, each with what was predicted and what was found, in float64."""
    for seed in range(config.seeds):
        g = np.random.default_rng(seed)
        yield dict(claim="C1", seed=seed, error=_decomposition(g, seed))
        yield dict(claim="C2", seed=seed, **_tilted(g, config))
        for direction in _directions(g, config):
            yield dict(claim="C3", seed=seed, **direction)


def _decomposition(g, seed):
    """Largest relative error of C1 over random points and levels of a random labelled
    mixture with two domains."""
    k, d = 12, int(g.integers(1, 4))
    a = torch.from_numpy(g.normal(size=(k, d, d)))
    weights, means = g.dirichlet(5 * np.ones(k)), 3 * g.normal(size=(k, d))
    covs = a @ a.mT + 0.05 * torch.eye(d)
    mixture = LabelledMixture(weights, means, covs, torch.arange(k) % 3)
    domains, w = torch.arange(k) // 6, float(g.uniform(1, 4))
    x = torch.from_numpy(4 * g.normal(size=(256, d)))
    sigma = torch.from_numpy(np.exp(g.uniform(-2, 2, size=256)))
    inside = mixture.subset((domains == 1) & (mixture.labels == 2))
    direct = guided(inside.denoise, mixture.denoise, w)(x, sigma)
    direct = (direct - x) / sigma[:, None] ** 2
    conditional, class_term, domain_term = theory.alignment(mixture, domains, 2, 1, x, sigma)
    summed = conditional + (w - 1) * (class_term + domain_term)
    return ((direct - summed).norm(dim=1) / direct.norm(dim=1)).max().item()


def _tilted(g, config):
    """1-Wasserstein distance of guided samples from the tilted density, in units of its std;
    and of unguided from the target.

    In one dimension the flow keeps the order of its particles, so quantiles go to
    quantiles and no noise enters.
    """
    w = 1.5
    source = GaussianMixture([0.3, 0.4, 0.3], g.uniform(-3, 3, (3, 1)), g.uniform(1, 3, (3, 1, 1)) ** 2)
    target = GaussianMixture([0.5, 0.5], g.uniform(-2, 2, (2, 1)), g.uniform(0.2, 0.6, (2, 1, 1)) ** 2)
    u = (torch.arange(config.points, dtype=torch.float64) + 0.5) / config.points
    sigmas = karras(config.steps, 1e-3, 200.0)
    x_T = (sigmas[0] * torch.special.ndtri(u))[:, None]
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)[:, None]
    result = {}
    for name, weight in (("guided", w), ("floor", 1.0)):
        x = last(heun(guided(target.denoise, source.denoise, weight), x_T, sigmas))[:, 0]
        p = theory.tilted(target, source, weight, grid).exp()
        quantiles = torch.from_numpy(np.interp(u, p.cumsum(0), grid[:, 0]))
        std = (p @ grid[:, 0] ** 2 - (p @ grid[:, 0]) ** 2).sqrt()
        result[name] = ((x.sort().values - quantiles).abs().mean() / std).item()
    return result


def _directions(g, config):
    """A Gaussian in the plane whose source is broader in one direction and narrower in the other: end mean
    and std of each by the closed form and by simulation. The flow is affine: three paths fix it."""
    w, angle = float(g.uniform(1, 3)), float(g.uniform(0, np.pi))
    s_T, mu_T = g.uniform(0.05, 1, 2), g.uniform(0.5, 3, 2)
    ratio = np.exp(g.uniform([0, -np.log(4)], [np.log(30), 0]))
    s_S = s_T * ratio
    axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # a column each
    source, target = (
        GaussianMixture([1.0], (axes @ m)[None], (axes * s**2 @ axes.T)[None])
        for m, s in ((np.zeros(2), s_S), (mu_T, s_T))
    )
    mean, std = theory.gaussian_guidance((mu_T, s_T), (np.zeros(2), s_S), w)
    sigmas = karras(4 * config.steps, 1e-2 * std.min(), 3000 * (s_S + mu_T).max(), rho=15)
    x_T = sigmas[0] * torch.from_numpy(np.vstack([np.zeros(2), axes.T]))
    centre, *ends = last(heun(guided(target.denoise, source.denoise, w), x_T, sigmas)).numpy() @ axes
    return [
        dict(
            w=w,
            ratio=ratio[i],
            predicted_std=std[i] / s_T[i],
            found_std=abs(ends[i] - centre).max() / s_T[i],
            predicted_overshoot=mean[i] / mu_T[i],
            found_overshoot=centre[i] / mu_T[i],
            distance=mu_T[i] / s_S[i],
        )
        for i in range(2)
    ]


def figure(record):
    """Prediction against simulation for std and mean; guided sampling's distance from the tilted density."""
    titles = (
        "Sharpening is predicted:\nend std / target std",
        "So is overshoot:\nend mean / target mean",
        "Guided samples are not\nthe tilted density's",
    )
    with frame(titles, (15, 4.6)) as (fig, (left, middle, right)):
        _against_theory(left, record, "std")
        shown = _against_theory(middle, record, "overshoot")
        fig.colorbar(shown, ax=middle, label="source std / target std")
        _against_tilted(right, record)
    return fig


def _against_theory(ax, record, what):
    """What was found in simulation against the closed form, a dot for each direction."""
    found = rows(record, claim="C3")
    x, y, ratio = ([r[key] for r in found] for key in (f"predicted_{what}", f"found_{what}", "ratio"))
    ends = [min(x) * 0.9, max(x) * 1.1]
    ax.plot(ends, ends, color="black", linewidth=1)
    ax.set(xlabel="closed form", ylabel="simulation", xscale="log", yscale="log")
    look = dict(cmap="cividis", norm="log", s=50, edgecolor="black", linewidth=0.5)
    return ax.scatter(x, y, c=ratio, **look)


def _against_tilted(ax, record):
    """How far guided samples are from the tilted density, and unguided ones
    from the target's, each in order."""
    for key, method, label in (("guided", "DoG", "guided, w = 1.5"), ("floor", "none", "not guided (floor)")):
        y = sorted(r[key] for r in rows(record, claim="C2"))
        look = plot.METHODS[method]
        ax.scatter(range(len(y)), y, color=look["color"], marker=look["marker"], label=label)
    ax.set(yscale="log", xlabel="random mixture, in order", ylabel="W1 to the tilted density / its std")
    ax.legend(fontsize=11)
