"""When do held-out points pay? What calibrates a method is taken from its training. (C29)

Weights by least squares stand beside weights chosen on samples: one for all noise, or one per stretch of it.
Each seed has a source of its own.
"""

import dataclasses

import numpy as np
import torch

from ... import metrics
from ...guidance import cfg, domain_guidance
from ...samplers import dpmpp_2m, last, normal
from ...train import Points
from .. import plot
from ..lab import PointConfig, PointSetting, finetuned, methods, on_own_sources, prepared, replace
from ..records import caption, row, rows, values
from .calibration import by_seed, calibrated, regime, rounded, stacked
from .forgetting import of_classes
from .panels import frame, level
from .runs import recorded

LINES = ("CFG", "DoG")
FEWER = "none on fewer points"
SEARCHED, GREEDY = " searched", " on trajectories"  # one weight, or one per stretch, chosen on samples
STAGES = ("hardly begun", "class unfinished", "finished", "overfitted")


@dataclasses.dataclass(frozen=True)
class Config(PointConfig):
    """`stages`: (name, target points per class, fine-tuning steps, learning rate). `share`: of the points,
    kept from training to calibrate on, with `draws` of noise each. `stretches`: of noise levels, each with
    its weight out of `candidates`, where weights are chosen on samples. `fresh` points per class measure
    errors."""

    setting: PointSetting = on_own_sources(seeds=4)
    stages: tuple = tuple(
        zip(STAGES, (256, 256, 256, 16), (100, 300, 5000, 3000), (1e-4, 1e-4, 1e-3, 1e-3), strict=True)
    )
    weights: tuple = (0.5, 1.25, 1.6, 2.0, 3.0)
    share: float = 0.25
    draws: int = 16
    candidates: tuple = (0.5, 0.8, 1.0, 1.25, 1.6, 2.0, 3.0)
    stretches: int = 8
    fresh: int = 1024
    levels: tuple = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015)

    @classmethod
    def full(cls):
        """For one core of a CPU: five minutes."""
        return cls()


@recorded
def run(config, device, progress):
    """Rows of stage, method, w ("calibrated" or a constant), each metric and the excess error by seed;
    `fits`: the weights by seed, and the regime that they tell."""
    found, fits = [], []
    for stage, size, steps, lr in config.stages:
        setting = replace(config.setting, size=size, finetune=dict(steps=steps, lr=lr))
        kept = size - max(1, round(config.share * size))
        pre, whole, judge = prepared(setting, device, progress)
        part = finetuned(replace(setting, size=kept), device, progress)
        held_out = remaining(setting, kept, device)
        fit = by_seed(config.levels, part, pre, repeated(held_out, config.draws))
        tried = [*methods(whole, pre, config.weights), (FEWER, 1.0, part.denoiser)]
        tried += [*calibrated(part, pre, stacked(fit)), *chosen(config, judge, part, pre, held_out)]
        for name, w, method in tried:
            scores = judge.judged(method, sampler=dpmpp_2m)
            error = of_classes(method, judge.target, config.setting.seeds, config.fresh, config.levels)
            excess = [round(v, 6) for v in error.tolist()]
            found.append(dict(stage=stage, method=name, w=w, **scores, excess=excess))
        fits.append(dict(stage=stage, regime=regime(config.levels, rounded(fit)), **rounded(fit)))
    return dict(rows=found, fits=fits)


def remaining(setting, kept, device="cpu"):
    """The points of each seed after the first `kept` of each class.  -> Points, x0 (S, classes * left, 2)"""
    points = setting.world(device).data(setting.size, setting.each_seed(), device)
    left = lambda a: a.unflatten(1, (-1, setting.size))[:, :, kept:].flatten(1, 2)
    return Points(left(points.x0), left(points.label))


def repeated(points, draws):
    """Every point `draws` times, so that each meets as many draws of noise."""
    return Points(points.x0.repeat(1, draws, 1), points.label.repeat(1, draws))


def on_line(name, finetuned, pretrained, w):
    """CFG or DoG with a weight that may be a function of sigma: label -> denoiser."""
    if name == "CFG":
        return lambda y: cfg(finetuned, y, finetuned.null, w)
    guide = pretrained.denoiser(pretrained.null)
    return lambda y: domain_guidance(finetuned.denoiser(y), guide, w)


def chosen(config, judge, finetuned, pretrained, held_out):
    """CFG and DoG with weights chosen on samples: (name, "calibrated", label -> denoiser)."""
    for name in LINES:
        for way, stretches in ((SEARCHED, 1), (GREEDY, config.stretches)):
            method = lambda w, name=name: on_line(name, finetuned, pretrained, w)
            w = on_trajectories(method, judge, held_out, config.candidates, stretches, config.draws)
            yield name + way, "calibrated", method(w)


def on_trajectories(method, judge, held_out, candidates, stretches, draws=1):
    """The weight of each stretch of the sampler's noise levels, for each seed, chosen on its own samples.

    From high noise down: of all candidates the one whose samples, at the stretch's end, have the smallest
    energy distance to the held-out points at that noise; the next stretch starts from those samples, where
    `relatives.self_consistent` starts from noised data. method: w -> label -> denoiser.  -> w(sigma), (S,).
    A relative of Galashov et al. 2025 (arXiv 2510.00815), who train a network for the weights.
    """
    sigmas, classes = judge.setting.sigmas(), range(len(judge.parts))
    ends = torch.linspace(0, len(sigmas) - 1, min(stretches, len(sigmas) - 1) + 1).round().long().tolist()
    seeds, generator = torch.arange(len(held_out.x0)), torch.Generator(judge.device).manual_seed(600_000)
    clean = repeated(held_out, draws)
    true = [clean.x0[:, clean.label[0] == c] for c in classes]  # (S, m, 2) each
    x = [sigmas[0].float() * judge.start(c) for c in classes]  # (S, n, 2) each
    best = []
    for start, end in zip(ends, ends[1:]):
        stretch = sigmas[start : end + 1]
        there = [y + stretch[-1].float() * normal(y, generator) for y in true]
        tried = [[last(dpmpp_2m(method(w)(c), x[c], stretch)) for c in classes] for w in candidates]
        apart = [sum(map(metrics.energy_distance, samples, there)) for samples in tried]  # (S,) each
        pick = torch.stack(apart).argmin(0)  # (S,)
        x = [torch.stack([samples[c] for samples in tried])[pick, seeds] for c in classes]
        best.append(torch.tensor(candidates, device=judge.device)[pick])
    bounds = torch.tensor([float(sigmas[end]) for end in ends[1:-1]]).flip(0)  # rising
    weights = torch.stack(best).flip(0)  # (stretches, S), from low noise up

    def w(sigma):
        return weights[torch.bucketize(torch.as_tensor(sigma, dtype=torch.float32).cpu(), bounds)]

    return w


def figure(record):
    """What each way to a weight leaves of the energy distance, by stage; then loss, match and outliers
    against a constant w, where a guide has something to complete and where not."""
    titles = (
        "Points for points: calibration pays\nwhere training stopped early",
        "Hardly begun: w > 1 lowers\nloss and distance (DoG)",
        "Class unfinished: so it does (CFG)",
        "Finished: outliers fall,\nloss and distance rise (DoG)",
    )
    compared = dict(zip(STAGES, ("DoG", "CFG", "DoG")))
    with frame(titles, (22, 5), caption(record)) as (fig, axes):
        draw_ways(axes[0], record)
        for ax, (stage, method) in zip(axes[1:], compared.items(), strict=True):
            against_weight(ax, record, stage, method)
        axes[1].legend(fontsize=11)
    return fig


WAYS = {  # method: whose colour it has
    FEWER: "none",
    "CFG": "CFG",
    "DoG": "DoG",
    "plane": "plane",
}


def draw_ways(ax, record):
    """Energy distance relative to no guidance with all points in training, by stage: bars for least squares,
    crosses for weights per stretch chosen on samples."""
    for i, stage in enumerate(STAGES):
        base = values(record, "energy", stage=stage, method="none").mean()
        for j, (method, look) in enumerate(WAYS.items()):
            place = i + 0.2 * (j - 1.5)
            relative = np.array(row(record, stage=stage, method=method, w=_weight(method))["energy"]) / base
            plot.bar(ax, place, relative, look, method if i == 0 else None)
            if method in LINES:
                greedy = values(record, "energy", stage=stage, method=method + GREEDY).mean() / base
                label = "weights chosen on samples" if (i, method) == (0, "CFG") else None
                ax.plot(place, greedy, "kx", markersize=9, label=label)
    level(ax, 1)
    ax.set_xticks(range(len(STAGES)), [stage.replace(" ", "\n") for stage in STAGES])
    ax.set(ylabel="energy distance / that of none", ylim=(0, None))
    ax.legend(fontsize=10)


def _weight(method):
    return 1.0 if method == FEWER else "calibrated"


MEASURES = {  # metric: its line, and what it is called
    "excess": ("-", "held-out loss above the exact one"),
    "energy": ("--", "energy distance"),
    "out_of_domain": (":", "out of domain"),
}


def against_weight(ax, record, stage, method):
    """Held-out loss, energy distance and out-of-domain rate against a constant w, each relative to no
    guidance."""
    family = rows(record, stage=stage, method="none") + rows(record, stage=stage, method=method)
    family = sorted((r for r in family if r["w"] != "calibrated"), key=lambda r: r["w"])
    for metric, (line, label) in MEASURES.items():
        none = values(record, metric, stage=stage, method="none").mean()
        y = [np.mean(r[metric]) / none for r in family]
        ax.plot([r["w"] for r in family], y, label=label, **plot.METHODS[method] | dict(linestyle=line))
    level(ax, 1)
    ax.set(xlabel="guidance weight w", ylabel="relative to no guidance", yscale="log", ylim=(0.03, 30))
    ax.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    ax.minorticks_off()
