"""Small images, the target at a distance from the source: gap x w, and which directions sharpen. (C14)"""

import dataclasses

import numpy as np
import torch

from ...theory import gaussian_guidance
from ...train import denoising_loss
from .. import plot
from ..lab import methods, replace
from ..pictures import PictureConfig, PictureJudge, PictureSetting, finetuned, prepared, replica, tenth
from ..records import of_method
from ..worlds import glyphs
from .directions import generalized, listed, within
from .panels import frame
from .runs import in_cells, merged

ROTATION = glyphs.KNOBS.index("rotation")
DEGREES = glyphs.SOURCE["rotation"][1] - glyphs.SOURCE["rotation"][0]


@dataclasses.dataclass(frozen=True)
class Config(PictureConfig):
    """`gaps`: of the target's rotations, in half-widths of the source's. `rates`: learning rates to choose
    from; without any, the setting's."""

    gaps: tuple = (0.0, 1.5)
    weights: tuple = (1.5, 2.0)
    rates: tuple = ()

    @classmethod
    def full(cls):
        """The learning rate tuned, and sampled in steps dense enough for the closed form."""
        return cls(
            replace(PictureSetting(), steps=100),
            gaps=(0.0, 0.5, 1.0, 1.25, 1.5),
            weights=(1.1, 1.25, 1.5, 2.0, 3.0),
            rates=(1e-4, 3e-4, 1e-3, 3e-3),
        )

    @classmethod
    def replica(cls):
        """A fine-tune that goes on until nothing is left to complete, so that what DoG turns digits beyond
        the target is overshoot alone. For one H100: about 15 minutes."""
        long = dict(seeds=4, size=1000, finetune=dict(steps=10_000))
        smaller = dict(gaps=(0.0, 1.5), weights=(1.25, 1.5, 2.0), rates=(1e-4, 3e-4, 1e-3))
        return replica(replace(cls.full(), setting=long), **smaller)


def _cell(config, device, gap, seed):
    """Rows of gap, method, w: each metric, mean and std of the rotation read off the samples, and along 64
    directions of features and of pixels the std within a class."""
    judge, pre = prepared(replace(config.setting, gap=gap), device)
    setting = replace(judge.setting, finetune=dict(lr=best_rate(judge, config.rates, seed)))
    axes, ft, found = directions(judge), finetuned(setting, seed, device), []
    for name, w, method in methods(ft, pre, config.weights):
        x = judge.sample(method, seed)
        found.append(dict(gap=gap, method=name, w=w, score=judge.score(x) | _measure(judge, axes, x)))
    return found


def best_rate(judge, rates, seed):
    """The learning rate after a tenth of whose fine-tuning the loss on fresh pictures is lowest."""
    if not rates:
        return judge.setting.finetune.lr
    setting, generator = judge.setting, torch.Generator().manual_seed(5)
    x0, label = judge.draw(setting.samples, 5), judge.label
    z = torch.randn(len(x0), generator=generator).to(x0)
    sigma = (setting.finetune.P_mean + setting.finetune.P_std * z).exp()
    x = x0 + sigma[:, None, None, None] * torch.randn(x0.shape, generator=generator).to(x0)

    def loss(lr):
        short = dict(lr=lr, steps=tenth(setting.finetune.steps))
        ft = finetuned(replace(setting, finetune=short), seed, judge.device)
        with torch.no_grad():
            return denoising_loss(ft.denoiser(label)(x, sigma), x0, sigma, ft.sigma_data).item()

    return min(rates, key=loss)


def _measure(judge, axes, x):
    """Rotation in degrees, and the std within a class along each axis."""
    angle = _degrees(judge, x)
    stds = {}
    for view, z in _views(judge, x).items():
        stds[f"std_{view}"] = listed(within(z @ axes[view][0], judge.label.cpu()))
    return dict(rotation=round(angle.mean().item(), 4), rotation_std=round(angle.std().item(), 4), **stds)


def _degrees(judge, x):
    """The rotation of each image, as the feature network reads it.  -> (n,)"""
    return DEGREES * (judge.read(x).style[:, ROTATION] - 0.5)


def _views(judge, x):
    """Images as features and as pixels, (n, D) float64 on the CPU."""
    return dict(features=judge.read(x).features.double().cpu(), pixels=x.flatten(1).double().cpu())


def _truths(judge):
    """As many true images as samples are compared with, of the source and of the target."""
    n, generator = judge.setting.truth, torch.Generator().manual_seed(3)
    return glyphs.World().sample(n, generator=generator, device=judge.device)[0], judge.draw(n, 4)


def directions(judge):
    """Generalized eigen-directions of the target's covariance within a class against the
    source's: C_T v = r^2 C_S v.

    -> {"features": (V (D, d), r (d,)), "pixels": likewise, inside the 64 leading principal
    directions of the source}
    """
    source, target = (_views(judge, x) for x in _truths(judge))
    label = torch.arange(judge.setting.truth) % judge.world.num_classes
    return {view: generalized(source[view], target[view], label) for view in ("features", "pixels")}


def _results(config, device, found):
    """The rows of all cells; `truth`, by gap: the same of source and target, and the predictions."""
    judges = {str(gap): PictureJudge(replace(config.setting, gap=gap), device) for gap in config.gaps}
    return merged(config, device, found) | dict(truth={g: _truth(config, j) for g, j in judges.items()})


compute, run = in_cells(_cell, lambda config: [(gap,) for gap in config.gaps], _results)


def _truth(config, judge):
    """What the closed form needs and says: r along every direction; rotation of source and
    target as read, and its end by w.

    The prediction starts from the rotations that were drawn: the network's errors of reading make a narrow
    target look broad.
    """
    angles = [_degrees(judge, x) for x in _truths(judge)]
    source, target = ([a.mean().item(), a.std().item()] for a in angles)
    exact = [drawn(judge.world), drawn(glyphs.World())]
    return dict(
        ratio={view: r.round(5).tolist() for view, (_, r) in directions(judge).items()},
        target=target,
        source=source,
        exact=exact,
        predicted={str(w): list(gaussian_guidance(*exact, w)) for w in (1.0, *config.weights)},
        floor=judge.floor(),
    )


def drawn(world):
    """Mean and std of the rotations that a world draws, uniform over its range, in degrees."""
    low, high = dict(world.ranges)["rotation"]
    return [(low + high) / 2, (high - low) / 12**0.5]


def changes(record, gap, view, w=2.0, method="DoG"):
    """log(std of a method / std of none) along each direction: the closed form's (w - 1) log r for DoG, and
    measured.  -> (d,), (S, d)"""
    predicted = (w - 1) * np.log(record["results"]["truth"][str(gap)]["ratio"][view])
    none, moved = (of_method(record, f"std_{view}", m, w, gap=gap) for m in ("none", method))
    return predicted, np.log(moved / none)


def sharpening(record, gap, view="features", method="DoG"):
    """Slope and correlation, by seed, of the measured changes against the closed form's.
    -> slopes, correlations (S,)"""
    predicted, measured = changes(record, gap, view, method=method)
    slopes = np.array([np.polyfit(predicted, m, 1)[0] for m in measured])
    return slopes, np.array([np.corrcoef(predicted, m)[0, 1] for m in measured])


def figure(record):
    """Fréchet distance over gap x w, rotation against the closed form, and
    sharpening direction by direction."""
    config = record["config"]
    w = max(x for x in config["weights"] if x <= 2)
    titles = (
        "Fréchet distance of DoG\nagainst no guidance",
        f"Outside, the style is overshot (w = {w:g})",
        "",
    )
    foot = f"10 classes; {len(record['seeds'])} seeds, 95% t intervals"
    with frame(titles, (18, 5.2), foot) as (fig, axes):
        _changed(axes[0], record)
        _overshoot(axes[1], record, w)
        directions_against_theory(axes[2], record, config["gaps"][0], w)
    return fig


def _changed(ax, record):
    """By how much DoG changes the Fréchet distance, over gap and weight."""
    gaps, weights = record["config"]["gaps"], record["config"]["weights"]
    mean = lambda gap, method, w: of_method(record, "frechet", method, w, gap=gap).mean()
    table = [[100 * (mean(g, "DoG", w) / mean(g, "none", w) - 1) for w in weights] for g in gaps]
    look = dict(cmap="RdBu_r", centre=0, fmt="{:+.0f}%", bar=False, reach=100)
    plot.heat(ax, weights, range(len(gaps)), table, "", **look)
    ax.set_yticks(range(len(gaps)), [f"gap {g}" for g in gaps])
    ax.set(xlabel="guidance weight w")


def _overshoot(ax, record, w):
    """How far the samples are turned beyond the target, against the gap."""
    gaps = record["config"]["gaps"]
    truth = [record["results"]["truth"][str(g)] for g in gaps]
    for method in ("none", "CFG", "DoG"):
        angles = [of_method(record, "rotation", method, w, gap=g) for g in gaps]
        beyond = [a - t["target"][0] for a, t in zip(angles, truth, strict=True)]
        plot.sweep(ax, gaps, beyond, method)
    predicted = [t["predicted"][str(w)][0] - t["exact"][0][0] for t in truth]
    ax.plot(gaps, predicted, color="black", label="closed form, DoG")
    ax.set(xlabel="gap of the target's rotation", ylabel="rotation beyond the target's, degrees")
    ax.legend(fontsize=11)


def directions_against_theory(ax, record, gap, w):
    """Measured against predicted change of log std, a dot for each direction of features and of pixels."""
    lows = []
    for view, color, marker in (("features", "#0072B2", "o"), ("pixels", "#E69F00", "^")):
        predicted, measured = changes(record, gap, view, w)
        look = dict(color=color, marker=marker, linestyle="", alpha=0.7)
        ax.plot(predicted, measured.mean(0), label=view, **look)
        lows.append(predicted.min())
    ax.plot([min(lows), 0], [min(lows), 0], color="black", linewidth=1, label="closed form")
    ax.set(xlabel="predicted change of log std, (w − 1) log r", ylabel="measured")
    ax.set_title("Inside, which directions sharpen?")
    ax.legend(fontsize=11)
