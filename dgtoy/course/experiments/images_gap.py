"""Small images, the target at a distance from the source, up to handwriting: gap x w, and which directions sharpen. (C14)"""

import dataclasses
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from ... import shipped as weights
from ...guidance import cfg, domain_guidance
from ...theory import gaussian_guidance
from .. import plot
from ..records import merge, record, row
from ..worlds import glyphs
from .directions import generalized, within
from .pictures import QUICK, Judge, Setting, cells, finetuned

HANDWRITTEN = 80  # images a class: what every class of scikit-learn's digits has, half held out
ROTATION = glyphs.KNOBS.index("rotation")
DEGREES = glyphs.SOURCE["rotation"][1] - glyphs.SOURCE["rotation"][0]


@dataclasses.dataclass(frozen=True)
class Config:
    """`gaps`: of the target's rotations, in half-widths of the source's; "handwriting": scikit-learn's digits."""

    setting: Setting = QUICK
    gaps: tuple = (0.0, 1.5, "handwriting")
    weights: tuple = (1.5, 2.0)

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(
            Setting(), gaps=(0.0, 0.5, 1.0, 1.25, 1.5, "handwriting"), weights=(1.1, 1.25, 1.5, 2.0, 3.0)
        )


def run(config, device="cpu", progress=False):
    """Rows of gap, method, w: each metric, mean and std of the rotation read off the samples, and along 64 directions of
    features and of pixels the std within a class, all by seed. `truth`, by gap: the same of source and target, and the predictions."""
    found, seconds = compute(config, device, progress=progress)
    truth = {str(gap): _truth(config, _judge(config, device, gap)) for gap in config.gaps}
    return record(
        "images_gap", config, dict(rows=merge(found.values()), truth=truth), time.time() - seconds, device
    )


def _judge(config, device, gap):
    far = (
        dict(domain="handwriting", size=min(config.setting.size, HANDWRITTEN))
        if gap == "handwriting"
        else dict(gap=gap)
    )
    return Judge(config.setting.but(**far), device)


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return cells(
        "images_gap",
        _cell,
        [(config, device, g, s) for g in config.gaps for s in config.setting.each_seed()],
        part,
        progress,
    )


def _cell(key):
    config, device, gap, seed = key
    judge, pre, found = _judge(config, device, gap), weights.load("glyphs", device), []
    ft = finetuned(judge.setting, seed, device)
    axes = directions(judge)
    y, guide = judge.label, pre.denoiser(pre.null)
    methods = [("none", 1.0, ft.denoiser(y))]
    for w in config.weights:
        methods += [("CFG", w, cfg(ft, y, ft.null, w)), ("DoG", w, domain_guidance(ft.denoiser(y), guide, w))]
    for method, w, D in methods:
        x = judge.sample(D, seed)
        found.append(dict(gap=gap, method=method, w=w, score=judge.score(x) | _measure(judge, axes, x)))
    return found


def _measure(judge, axes, x):
    """Rotation in degrees, and the std within a class along each axis."""
    seen = judge.net.read(x)
    angle = DEGREES * (seen.style[:, ROTATION] - 0.5)
    views = dict(features=seen.features, pixels=x.flatten(1))
    stds = {
        f"std_{k}": [
            float(f"{v:.5g}") for v in within(views[k].double().cpu() @ axes[k][0], judge.label.cpu())
        ]
        for k in views
    }
    return dict(rotation=round(angle.mean().item(), 4), rotation_std=round(angle.std().item(), 4), **stds)


def directions(judge):
    """Generalized eigen-directions of the target's covariance within a class against the source's: C_T v = r^2 C_S v.

    -> {"features": (V (D, d), r (d,)), "pixels": likewise, inside the 64 leading principal directions of the source}
    """
    n = judge.setting.truth
    source = glyphs.World().sample(n, generator=torch.Generator().manual_seed(3), device=judge.device)[0]
    target = judge.draw(n, 4)
    label = torch.arange(n) % judge.world.num_classes
    views = dict(
        features=[judge.net.read(x).features.double().cpu() for x in (source, target)],
        pixels=[x.flatten(1).double().cpu() for x in (source, target)],
    )
    return {name: generalized(s, t, label) for name, (s, t) in views.items()}


def _truth(config, judge):
    """What the closed form needs and says: r along every direction; rotation of source and target as read, and its end by w.

    The prediction starts from the rotations that were drawn, where they are known: the network's errors of reading make a narrow target look broad.
    """
    degrees = lambda x: DEGREES * (judge.net.read(x).style[:, ROTATION] - 0.5)
    source, n = glyphs.World(), judge.setting.truth
    seen = [
        degrees(judge.draw(n, 4)),
        degrees(source.sample(n, generator=torch.Generator().manual_seed(3), device=judge.device)[0]),
    ]
    target, source_ = ([a.mean().item(), a.std().item()] for a in seen)
    exact = (
        [drawn(world) for world in (judge.world, source)]
        if isinstance(judge.world, glyphs.World)
        else [target, source_]
    )
    predicted = {str(w): list(gaussian_guidance(*exact, w)) for w in (1.0, *config.weights)}
    return dict(
        ratio={k: r.round(5).tolist() for k, (_, r) in directions(judge).items()},
        target=target,
        source=source_,
        exact=exact,
        predicted=predicted,
        floor=judge.floor(),
    )


def drawn(world):
    """Mean and std of the rotations that a world draws, uniform over its range, in degrees."""
    low, high = dict(world.ranges)["rotation"]
    return [(low + high) / 2, (high - low) / 12**0.5]


def sharpening(record, gap, view="features", w=2.0):
    """Slope and correlation, by seed, of log(std DoG / std none) against the closed form's (w - 1) log r.  -> slopes, correlations (S,)"""
    predicted = (w - 1) * np.log(record["results"]["truth"][str(gap)]["ratio"][view])
    none, dog = (
        np.array(row(record, gap=gap, method=m, w=v)[f"std_{view}"]) for m, v in (("none", 1.0), ("DoG", w))
    )
    measured = np.log(dog / none)  # (S, d)
    return [np.polyfit(predicted, m, 1)[0] for m in measured], [
        np.corrcoef(predicted, m)[0, 1] for m in measured
    ]


def figure(record):
    """Fréchet distance over gap x w, rotation against the closed form, and sharpening direction by direction."""
    config, truth = record["config"], record["results"]["truth"]
    gaps, w = config["gaps"], max(x for x in config["weights"] if x <= 2)
    with plot.style():
        fig, axes = plt.subplots(1, 3, figsize=(18, 5.2))
        change = [
            [
                100
                * (
                    np.mean(row(record, gap=g, method="DoG", w=v)["frechet"])
                    / np.mean(row(record, gap=g, method="none", w=1.0)["frechet"])
                    - 1
                )
                for v in config["weights"]
            ]
            for g in gaps
        ]
        plot.heat(
            axes[0],
            config["weights"],
            range(len(gaps)),
            change,
            "",
            cmap="RdBu_r",
            centre=0,
            fmt="{:+.0f}%",
            bar=False,
            reach=100,
        )
        axes[0].set_yticks(range(len(gaps)), [f"gap {g}" if g != "handwriting" else g for g in gaps])
        axes[0].set(xlabel="guidance weight w", title="Fréchet distance of DoG\nagainst no guidance")
        numbers = [g for g in gaps if g != "handwriting"]
        for method in ("none", "CFG", "DoG"):
            found = [
                row(record, gap=g, method=method, w=1.0 if method == "none" else w)["rotation"]
                for g in numbers
            ]
            plot.sweep(
                axes[1],
                numbers,
                [np.array(f) - truth[str(g)]["target"][0] for f, g in zip(found, numbers, strict=True)],
                method,
            )
        axes[1].plot(
            numbers,
            [truth[str(g)]["predicted"][str(w)][0] - truth[str(g)]["exact"][0][0] for g in numbers],
            color="black",
            label="closed form, DoG",
        )
        axes[1].set(
            xlabel="gap of the target's rotation",
            ylabel="rotation beyond the target's, degrees",
            title=f"Outside, the style is overshot (w = {w:g})",
        )
        axes[1].legend(fontsize=11)
        directions_against_theory(axes[2], record, gaps[0], w)
        fig.supxlabel(f"10 classes; {len(record['seeds'])} seeds, 95% bootstrap intervals", fontsize=11)
    return fig


def directions_against_theory(ax, record, gap, w):
    """Measured against predicted change of log std, a dot a direction of features and of pixels."""
    for view, color, marker in (("features", "#0072B2", "o"), ("pixels", "#E69F00", "^")):
        predicted = (w - 1) * np.log(record["results"]["truth"][str(gap)]["ratio"][view])
        none, dog = (
            np.array(row(record, gap=gap, method=m, w=v)[f"std_{view}"])
            for m, v in (("none", 1.0), ("DoG", w))
        )
        ax.plot(
            predicted, np.log(dog / none).mean(0), marker, color=color, label=view, linestyle="", alpha=0.7
        )
    low = min((w - 1) * np.log(min(r)) for r in record["results"]["truth"][str(gap)]["ratio"].values())
    ax.plot([low, 0], [low, 0], color="black", linewidth=1, label="closed form")
    ax.set(
        xlabel="predicted change of log std, (w − 1) log r",
        ylabel="measured",
        title="Inside, which directions sharpen?",
    )
    ax.legend(fontsize=11)
