"""Which guide, or what is done with it? The relatives of guidance beside CFG, DoG and their rivals. (C28)

All methods share one sampler, Euler's (DDIM): it has one call per step, as those that remember ask, and CFG++
is defined for it. Two methods choose their own weights on held-out points: `self_consistent`, by label.
"""

import dataclasses

import torch
from matplotlib.ticker import FixedLocator

from ... import relatives
from ...guidance import guided
from ...samplers import euler
from .. import rivals
from ..intervals import ratio
from ..lab import PointSetting, Presets, prepared, weaker_self
from ..records import caption, family, held_out, values
from ..tradeoff import area, area_by_thickness
from .guides import label_free
from .nulls import placed
from .panels import frame, look_of
from .runs import in_cells

OF_POINTS = [name for name in rivals.METHODS if name not in rivals.OF_PICTURES]
OWN_WEIGHTS = {"CFG, self-consistent": "CFG", "DoG, self-consistent": "DoG"}  # and whose guide they have


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """`worlds`, `stages`, `since`: as in `nulls`. `levels`, `choice`, `held_out` points per class: of
    self-consistent weights."""

    setting: PointSetting = PointSetting(layout=None, samples=128, steps=32)
    worlds: tuple = (("moons", "moons", 0.0, 1.0),)
    stages: tuple = (("class unfinished", 300, 1e-4), ("finished", 5000, 1e-3))
    since: tuple = (0,)
    weights: tuple = (1.25, 2.0)
    held_out: int = 128
    levels: tuple = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06)
    choice: tuple = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)

    @classmethod
    def full(cls):
        """For one core of a CPU: a quarter of an hour."""
        setting = PointSetting(seeds=8, layout=None, samples=256, steps=32)
        worlds = (("moons", "moons", 0.0, 1.0), ("spirals", "spirals", 0.0, 1.0))
        return cls(setting, worlds, since=(0, 1), weights=(1.1, 1.25, 1.5, 2.0, 3.0), held_out=256)


def keys(config):
    """The cells: world, stage."""
    for (world, *_), since in zip(config.worlds, config.since, strict=True):
        for stage, *_ in config.stages[since:]:
            yield world, stage


def cell(config, device, world, stage, seeds):
    """The rows of every method. seeds: how many, since a cell holds them all."""
    setting = placed(config, world, stage)
    pre, ft, judge = prepared(setting, device)
    models = rivals.Models(
        ft, pre, weaker_self(setting, device), half_way(ft, pre), setting.sigmas(), axes=(-1,)
    )
    found = []

    def judged(name, w, method):
        score = judge.judged(method, sampler=euler)
        found.append(dict(world=world, stage=stage, method=name, w=w, **score))

    judged("none", 1.0, ft.denoiser)
    for name in OF_POINTS:
        for w in config.weights:
            judged(name, w, rivals.method(name, models, w))
    for name in OWN_WEIGHTS:
        judged(name, "found", _self_consistent(config, judge.target, ft, pre, name))
    return found


def half_way(ft, pre, share=0.5):
    """The networks whose weights lie a share of the way from the pre-trained ones to the fine-tunes.

    Their rows for no label are mixed as well, those for a label are the fine-tunes'.
    """
    name = "body.0.weight"  # its last rows are the label table, one row for each class and one for none
    old, new = pre.params[name], ft.params[name]  # (S, features + classes + 1, width)
    features = old.shape[1] - pre.null - 1
    shared = torch.cat([old[:, :features], new[:, features:-1], old[:, -1:]], 1)
    mixed = ft.clone()
    mixed.params = relatives.interpolated({**pre.params, name: shared}, ft.params, share)
    return mixed


def _self_consistent(config, target, ft, pre, name):
    """Guidance with each seed's self-consistent weight for each label: label -> denoiser."""
    guide = label_free(ft if OWN_WEIGHTS[name] == "CFG" else pre)
    own = [consistent(config, target, ft, pre, name, label) for label in range(ft.null)]
    return lambda y: guided(ft.denoiser(y), guide(y), own[y])


def consistent(config, target, ft, pre, name, label):
    """Each seed's self-consistent weight for a label, stacked: sigma -> (S,)."""
    levels, choice = torch.tensor(config.levels), torch.tensor(config.choice, device=ft.device)
    of_seeds = []
    for k, seed in enumerate(pre.seeds):
        g = torch.Generator(ft.device).manual_seed(300_000 + 1_000 * label + seed)
        data = target.given(label).sample(config.held_out, generator=g)
        tuned = ft.member(k)
        other = tuned if OWN_WEIGHTS[name] == "CFG" else pre.member(k)
        main, guide = tuned.denoiser(label), other.denoiser(other.null)
        of_seeds.append(relatives.self_consistent(main, guide, data, levels, choice, generator=g))
    return lambda sigma: torch.stack([w(sigma) for w in of_seeds])


def _results(config, device, found):
    """Rows of world, stage, method, w and each metric by seed."""
    return dict(rows=[row for result in found.values() for row in result])


compute, run = in_cells(cell, keys, _results, together=True)


def places(record):
    """Where the record has methods: each world and stage."""
    return [
        dict(world=r["world"], stage=r["stage"]) for r in record["results"]["rows"] if r["method"] == "none"
    ]


def left(record, method, cost="energy", **where):
    """What a method leaves outside at equal cost: the area under its trade-off, by seed.  -> (S,)"""
    curve = family(record, method, **where)
    return area_by_thickness(curve) if cost == "contraction" else area(curve)


def apart(record, method, **where):
    """A method's energy distance at its own weight: its own choice, or that of other seeds.  -> (S,)"""
    if method in OWN_WEIGHTS:
        return values(record, "energy", method=method, **where)
    return held_out(family(record, method, **where), "energy")


COLUMNS = {  # what is compared: its title, and its axis
    "energy": ("Finished: at equal energy distance\nthe guide decides", "samples outside"),
    "contraction": ("Finished: at equal thickness\nchanged updates are ahead", "samples outside"),
    "unfinished": ("Class unfinished: CFG's guide,\nits weight from data", "energy distance"),
}


def measure(record, column, method, world):
    """A column's measure of a method, by seed.  -> (S,)"""
    stages = [name for name, *_ in record["config"]["stages"]]
    if column == "unfinished":
        return apart(record, method, world=world, stage=stages[0])
    return left(record, method, column, world=world, stage=stages[-1])


def figure(record):
    """For the first world: each method relative to no guidance, with the two kinds of trade-off of finished
    fine-tunes and the match of unfinished ones."""
    world = record["config"]["worlds"][0][0]
    foot = caption(record, "; relative to no guidance, lower is better")
    titles = [title for title, _ in COLUMNS.values()]
    with frame(titles, (15, 7), foot, sharey=True) as (fig, axes):
        for ax, column in zip(axes, COLUMNS, strict=True):
            draw(ax, record, column, world)
    return fig


def draw(ax, record, column, world):
    """A point with its interval for each method: its measure relative to that without guidance."""
    none, names = measure(record, column, "none", world), [*OF_POINTS, *OWN_WEIGHTS]
    for i, name in enumerate(names):
        if name in OWN_WEIGHTS and column != "unfinished":  # one weight is no trade-off
            continue
        value, low, high = ratio(measure(record, column, name, world), none)
        look, reach = look_of(name), [[value - low], [high - value]]
        ax.errorbar(value, -i, xerr=reach, fmt=look["marker"], color=look["color"], markersize=9, capsize=4)
    ax.axvline(1, color="black", linewidth=1)
    ax.set_yticks([-i for i in range(len(names))], names)
    ax.set(xscale="log", xlabel=COLUMNS[column][1])
    ax.xaxis.set_major_locator(FixedLocator([0.05, 0.1, 0.2, 0.5, 1]))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.grid(axis="x", alpha=0.3)
