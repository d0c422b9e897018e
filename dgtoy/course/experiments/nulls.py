"""Is CFG weak because its null branch is poor, and does DoG need what the old model knows? (C21 to C23)

Every guide that a network has to learn stands beside the exact one, and beside guides that know nothing but
a width: a round Gaussian, and the model's own density blurred. Each seed has a source, a data set and
networks of its own.
"""

import dataclasses
import functools

import numpy as np
import torch

from ...gmm import GaussianMixture
from ...guidance import blurred, guided
from ...samplers import dpmpp_2m
from .. import plot
from ..lab import PointSetting, Presets, finetuned, prepared, replace, weaker_self
from ..records import caption, family
from .calibration import regime, weigh_seeds
from .guides import label_free
from .panels import frame
from .runs import in_cells

FEW = ("own null", "exact null", "learned source", "exact source", "weaker self")
FEW += ("Gaussian, std 2", "blurred self, b = 0.4")
BETTER = "better null"  # a network of its own, sixteen times the data
MORE = ("own null, b = 0.4", "exact null, b = 0.4", BETTER, "Gaussian, std 0.5", "Gaussian, std 1")
MORE += ("Gaussian, std 4", "blurred self, b = 0.2", "blurred self, b = 1")
OF_THE_EXACT = tuple(name for name in FEW if name != "weaker self")
LOOKS = {  # guide: whose colour it has, and how it differs from that
    "own null": ("CFG", {}),
    "exact null": ("CFG", dict(linestyle=":", markerfacecolor="white")),
    BETTER: ("CFG", dict(linestyle="-.", marker="^")),
    "own null, b = 0.4": ("CFG", dict(linestyle="-", marker="*", markersize=11)),
    "learned source": ("DoG", {}),
    "exact source": ("DoG", dict(linestyle=":", markerfacecolor="white")),
    "Gaussian, std 2": ("source", dict(color="black", marker="h", linestyle="--")),
    "weaker self": ("autoguidance", {}),
    "blurred self, b = 0.4": ("blurred self", {}),
}
SHOWN = tuple(guide for guide in LOOKS if guide in FEW)


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """`worlds`: (name, domain, gap, breadth). `stages`: (name, steps, learning rate); a world has those from
    its number in `since` on. `wide`: worlds where, in the last two stages, every guide is tried. `levels`,
    `held_out` points per class: of calibration."""

    setting: PointSetting = PointSetting(layout=None, samples=128)
    worlds: tuple = (("moons", "moons", 0.0, 1.0),)
    stages: tuple = (("class unfinished", 300, 1e-4), ("detail missing", 2000, 1e-3))
    since: tuple = (0,)
    wide: tuple = ("moons",)
    weights: tuple = (1.25, 2.0)
    held_out: int = 256
    levels: tuple = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03)

    @classmethod
    def full(cls):
        """For one core of a CPU: a quarter of an hour."""
        worlds = (
            ("moons", "moons", 0.0, 1.0),
            ("spirals", "spirals", 0.0, 1.0),
            ("off-centre", "moons", 0.5, 1.0),
            ("narrow source", "moons", 0.0, 0.5),
        )
        stages = (
            ("hardly begun", 100, 1e-4),
            ("class unfinished", 300, 1e-4),
            ("detail missing", 2000, 1e-3),
            ("finished", 5000, 1e-3),
        )
        setting = PointSetting(seeds=8, layout=None, samples=256)
        weights = (1.1, 1.25, 1.5, 2.0, 3.0)
        return cls(setting, worlds, stages, (0, 2, 3, 3), ("moons", "spirals"), weights, held_out=1024)


def keys(config):
    """The cells: world, stage, main model, guide, or the calibration of a stage."""
    names = [name for name, *_ in config.stages]
    for (world, *_), since in zip(config.worlds, config.since, strict=True):
        for stage in names[since:]:
            more = MORE if world in config.wide and stage in names[-2:] else ()
            for guide in ("calibration", "none", *FEW, *more):
                yield world, stage, "learned", guide
        for guide in ("none", *OF_THE_EXACT) if world in config.wide else ():
            yield world, names[-1], "exact", guide


def cell(config, device, world, stage, main, guide, seeds):
    """The rows of one guide, or the weights that held-out data ask for. seeds: how many, since a cell holds
    them all."""
    setting = placed(config, world, stage)
    pre, ft, judge = prepared(setting, device)
    if guide == "calibration":
        return weigh_seeds(config, judge.target, ft, pre)
    model = ft.denoiser if main == "learned" else judge.target.denoiser
    found = []
    for w in (1.0,) if guide == "none" else config.weights:
        method = model
        if guide != "none":
            method = _guided_by(named(guide, setting, model, ft, pre, device), model, w)
        where = dict(world=world, stage=stage, main=main, guide=guide, w=w)
        found.append(where | judge.judged(method, sampler=dpmpp_2m))
    return found


def placed(config, world, stage):
    """The setting of a world and a stage."""
    domain, gap, breadth = next(parts for name, *parts in config.worlds if name == world)
    steps, lr = next(parts for name, *parts in config.stages if name == stage)
    return replace(config.setting, domain=domain, gap=gap, breadth=breadth, finetune=dict(steps=steps, lr=lr))


def _guided_by(guide, model, w):
    return lambda c: guided(model(c), guide(c), w)


def named(name, setting, model, ft, pre, device):
    """The guide of this name: label -> denoiser."""
    target, (kind, _, width) = setting.world(device).target, name.partition(", ")
    width = float(width.split()[-1]) if width else 0.0
    if kind == "Gaussian":
        wide = GaussianMixture([1.0], torch.zeros(1, 2), width**2 * torch.eye(2)[None]).to(device)
        return lambda c: wide.denoise
    if kind == "weaker self":
        return weaker_self(setting, device).denoiser
    if kind == BETTER:
        better = replace(setting, size=16 * setting.size, finetune=dict(dropout=1.0))
        return label_free(finetuned(better, device))
    guide = {
        "own null": label_free(ft),
        "exact null": label_free(target),
        "learned source": label_free(pre),
        "exact source": label_free(setting.source(device)),
        "blurred self": model,
    }[kind]
    return lambda c: blurred(guide(c), width)


def _results(config, device, found):
    """Rows of world, stage, main, guide, w and each metric by seed; `fits`: the regime of each stage, and the
    calibrated weights by seed that tell it."""
    fits = []
    for (world, stage, _, guide, _), result in found.items():
        if guide == "calibration":
            fits.append(dict(world=world, stage=stage, regime=regime(config.levels, result), **result))
    made = [row for result in found.values() if isinstance(result, list) for row in result]
    return dict(rows=made, fits=fits)


compute, run = in_cells(cell, keys, _results, together=True)


def of_guide(record, guide, **where):
    """A guide's rows over w, that of no guidance first."""
    return family(record, guide, "guide", **dict(main="learned") | where)


def figure(record):
    """For the first world, each stage's trade-off: out-of-domain rate against energy distance as w grows."""
    config = record["config"]
    world, stages = config["worlds"][0][0], [name for name, *_ in config["stages"]]
    foot = caption(record, "; along each curve w grows, from no guidance (circle)", intervals=False)
    claim = "An exact null makes CFG worse; unless training has hardly begun, one wide Gaussian guides"
    claim += " at least as well as the source"
    with frame(stages, (5 * len(stages), 5), foot, claim=claim) as (fig, axes):
        for ax, stage in zip(axes, stages, strict=True):
            draw(ax, record, world=world, stage=stage)
        axes[0].set_ylabel(plot.NAMES["out_of_domain"])
        axes[0].legend(fontsize=10)
    return fig


def draw(ax, record, guides=SHOWN, **where):
    """Means over seeds of out-of-domain rate against energy distance, a curve for each guide of LOOKS."""
    for guide in guides:
        method, changes = LOOKS[guide]
        points = of_guide(record, guide, **where)
        mean = functools.partial(_means, points)
        ax.plot(mean("energy"), mean("out_of_domain"), label=guide, **plot.METHODS[method] | changes)
    ax.plot(mean("energy")[0], mean("out_of_domain")[0], **plot.METHODS["none"] | dict(markersize=10))
    ax.set(xscale="log", xlabel=plot.NAMES["energy"])
    ax.xaxis.set_minor_formatter("")


def _means(points, metric):
    return [np.mean(r[metric]) for r in points]
