"""How much guidance does a fine-tune need? Weights from held-out data, from unfinished to overfitted. (C18)

The stages follow one fine-tune with the paper's learning rate, 1e-4, as it learns the domain, then the
classes, then the detail; after them one that is finished and one that has overfitted, at ten times that rate.
"""

import dataclasses

import numpy as np
import torch

from ...calibration import calibrate_methods
from ...guidance import cfg, domain_guidance, plane
from ...train import Points
from .. import plot
from ..lab import PointConfig, methods, on_own_sources, prepared, replace
from ..records import caption, of_method, values
from .panels import frame, level
from .runs import recorded

SHOWN = {
    "100 steps": dict(color="#D55E00", linestyle="-", marker="o"),
    "300 steps": dict(color="#E69F00", linestyle="--", marker="s"),
    "finished": dict(color="#009E73", linestyle="-.", marker="^"),
    "overfitted": dict(color="#0072B2", linestyle=":", marker="D"),
}


@dataclasses.dataclass(frozen=True)
class Config(PointConfig):
    """`stages`: (name, target points per class, fine-tuning steps, learning rate).
    `held_out`: points per class."""

    stages: tuple = (
        ("100 steps", 256, 100, 1e-4),
        ("300 steps", 256, 300, 1e-4),
        ("finished", 256, 5000, 1e-3),
        ("overfitted", 16, 3000, 1e-3),
    )
    weights: tuple = (1.25, 2.0)
    held_out: int = 256
    levels: tuple = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015)

    @classmethod
    def full(cls):
        """For one core of a CPU: ten minutes."""
        course = tuple((f"{n} steps", 256, n, 1e-4) for n in (100, 300, 1000, 3000, 10_000))
        ends = (("finished", 256, 5000, 1e-3), ("overfitted", 16, 3000, 1e-3))
        weights = (1.1, 1.25, 1.5, 2.0, 3.0)
        return cls(on_own_sources(seeds=16), course + ends, weights, held_out=1024)


@recorded
def run(config, device, progress):
    """Rows of stage, method, w ("calibrated" or a constant) and each metric by seed;
    `fits`: the regime of each stage, and the calibrated weights by seed that tell it."""
    found, fits = [], []
    for stage, size, steps, lr in config.stages:
        setting = replace(config.setting, size=size, finetune=dict(steps=steps, lr=lr))
        pre, ft, judge = prepared(setting, device, progress)
        fit = by_seed(config.levels, ft, pre, fresh(config, judge.target, pre.seeds))
        for name, w, method in [*methods(ft, pre, config.weights), *calibrated(ft, pre, stacked(fit))]:
            found.append(dict(stage=stage, method=name, w=w, **judge.judged(method)))
        weights = rounded(fit)
        fits.append(dict(stage=stage, regime=regime(config.levels, weights), **weights))
    return dict(rows=found, fits=fits)


def regime(levels, fit):
    """How far a fine-tune is by held-out data: "hardly begun", "unfinished", "finished" or "overfitted".

    fit: {"DoG" and "CFG": weights (S, levels, 1)}, as in a record's `fits`; judged by their means over seeds.
    Finished: every weight within 0.1 of 1. Overfitted: none above, some below. Above 1 something is missing:
    with DoG at noise levels of 0.5 or more, where the domain is decided, the fine-tune has hardly begun.
    """
    mean = {method: np.mean(fit[method], 0)[:, 0] for method in ("DoG", "CFG")}
    missing = {method: mean[method] > 1.1 for method in mean}
    if missing["DoG"][np.array(levels) >= 0.5].any():
        return "hardly begun"
    if missing["DoG"].any() or missing["CFG"].any():
        return "unfinished"
    return "overfitted" if min(w.min() for w in mean.values()) < 0.9 else "finished"


def weigh(finetuned, pretrained, data, levels, seed):
    """The weights that held-out data (x0, label) ask for, by method.
    -> {"CFG", "DoG", "plane": Calibration}"""
    guide, null = pretrained.denoiser(pretrained.null), finetuned.denoiser(finetuned.null)
    noise = dict(seed=400_000 + seed, device=data[0].device)
    return calibrate_methods(finetuned.denoiser, null, guide, data, levels, **noise, resamples=2)


def calibrated(finetuned, pretrained, weights):
    """The methods with weights {name: (w,) or (a, b)}, functions of sigma: (name,
    "calibrated", label -> denoiser)."""
    guide, null = pretrained.denoiser(pretrained.null), finetuned.denoiser(finetuned.null)
    made = {
        "CFG": lambda y: cfg(finetuned, y, finetuned.null, *weights["CFG"]),
        "DoG": lambda y: domain_guidance(finetuned.denoiser(y), guide, *weights["DoG"]),
        "plane": lambda y: plane(guide, null, finetuned.denoiser(y), *weights["plane"]),
    }
    for name, method in made.items():
        yield name, "calibrated", method


def weigh_seeds(config, target, ft, pre):
    """The weights that each seed's held-out points ask for.  -> {method: lists (S, levels, 1 or 2)}"""
    return rounded(by_seed(config.levels, ft, pre, fresh(config, target, pre.seeds)))


def fresh(config, target, seeds):
    """`held_out` points per class of the target for each seed.  -> Points"""
    classes, device = range(target.num_classes), target.means.device

    def drawn(seed):
        generator = torch.Generator(device).manual_seed(300_000 + seed)
        return torch.cat([target.given(c).sample(config.held_out, generator=generator) for c in classes])

    label = torch.arange(len(classes), device=device).repeat_interleave(config.held_out)
    return Points(torch.stack([drawn(seed) for seed in seeds]), label.expand(len(seeds), -1))


def rounded(fit):
    """The weights of `by_seed` as a record holds them.  -> {method: lists (S, levels, 1 or 2)}"""
    return {method: [c.weights.round(decimals=5).tolist() for c in fit[method]] for method in fit}


def by_seed(levels, ft, pre, points):
    """Each seed's own pair of networks on its own held-out points, all classes together.
    -> {method: [Calibration]}"""
    found = {}
    for k, seed in enumerate(pre.seeds):
        fit = weigh(ft.member(k), pre.member(k), (points.x0[k], points.label[k]), levels, seed)
        for method, calibration in fit.items():
            found.setdefault(method, []).append(calibration)
    return found


def stacked(fit):
    """Each seed's weight at sigma, (S,): what guidance of an ensemble takes."""

    def over_seeds(calibrations, name):
        return lambda sigma: torch.stack([getattr(c, name)(sigma) for c in calibrations])

    columns = dict(CFG=("w",), DoG=("w",), plane=("a", "b"))
    return {method: [over_seeds(fit[method], name) for name in names] for method, names in columns.items()}


def figure(record):
    """The plane's a*(sigma) and b*(sigma) at four stages, and the match of calibrated
    guidance, stage by stage."""
    titles = (
        "Held-out data see what is unfinished:\nfirst the domain ...",
        "... then the classes",
        "Calibrated guidance\ncompletes what is missing",
    )
    with frame(titles, (17.5, 5), caption(record)) as (fig, axes):
        _weights(axes[0], record, 0)
        _weights(axes[1], record, 1)
        axes[0].set(ylabel="a*(σ), domain direction")
        axes[1].set(ylabel="b*(σ), class direction", yscale="log")
        axes[1].set_ylim(0.25, 10)  # after 100 steps some seeds ask for less than 0
        axes[1].set_yticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
        axes[1].minorticks_off()
        axes[0].legend()
        _match(axes[2], record)
    return fig


def _weights(ax, record, column):
    """The plane's weights of one direction against sigma, a line for each stage."""
    fits = {f["stage"]: np.array(f["plane"]) for f in record["results"]["fits"]}  # (S, levels, 2)
    for stage, look in SHOWN.items():
        plot.sweep(ax, record["config"]["levels"], fits[stage][:, :, column].T, "none", stage, **look)
    level(ax, 1)
    ax.set(xscale="log", xlabel="noise level σ")
    ax.invert_xaxis()


def _match(ax, record):
    """Energy distance of each method with calibrated weights, relative to no guidance seed by seed, by
    stage."""
    for i, stage in enumerate(SHOWN):
        base = values(record, "energy", stage=stage, method="none")
        for j, method in enumerate(("none", "CFG", "DoG", "plane")):
            relative = of_method(record, "energy", method, "calibrated", stage=stage) / base
            plot.bar(ax, i + 0.2 * (j - 1.5), relative, method, method if i == 0 else None)
    level(ax, 1)
    ax.set_xticks(range(len(SHOWN)), SHOWN)
    ax.set(ylabel="energy distance / that of none", ylim=(0, 1.6))
    ax.legend(fontsize=11, ncols=4, loc="upper center", columnspacing=1, handlelength=1)
