"""Photographs, the paper's ablations: less data, a LoRA, no label dropout, another length of fine-tuning, and
another sampler. (C16, C25)

A cell is one fine-tune by one recipe; every recipe of a seed starts from the same noise.
"""

import dataclasses

import numpy as np
import torch

from ...samplers import ancestral, dpmpp_2m, euler, heun
from .. import plot
from ..intervals import student
from ..lab import methods, replace
from ..photos import finetuned
from ..records import family, held_out
from .panels import frame
from .photos import Config as Study
from .photos import PhotoConfig, prepared
from .runs import in_cells

MAIN = "as in the main table"
RECIPES = {  # name: what differs; length counts in fine-tunes of the main table
    MAIN: {},
    "100 pictures a class": dict(size=100),
    "20 pictures a class": dict(size=20),
    "LoRA": dict(rank=8, lr=1e-3),
    "no label dropout": dict(dropout=0.0),
    "a quarter as long": dict(length=0.25),
    "twice as long": dict(length=2),
}
SAMPLERS = {  # name: sampler, steps as a share of the setting's
    "DPM-Solver++(2M)": (dpmpp_2m, 1),
    "DDIM": (euler, 2),
    "Heun": (heun, 1),
    "DDPM, 50 steps": (ancestral, 2),
    "DDPM, 250 steps": (ancestral, 10),
}
METHODS = ("CFG", "DoG")


@dataclasses.dataclass(frozen=True)
class Config(PhotoConfig):
    """recipes: of RECIPES; MAIN is sampled by every sampler of `samplers`, the others by the first of
    them."""

    recipes: tuple = (MAIN, "LoRA")
    samplers: tuple = ("DPM-Solver++(2M)", "DDPM, 50 steps")
    weights: tuple = (1.5,)

    @classmethod
    def full(cls):
        setting = replace(Study.full().setting, samples=500, steps=25)
        return cls(
            setting, recipes=tuple(RECIPES), samplers=tuple(SAMPLERS), weights=(1.25, 1.5, 2.0, 3.0, 4.5)
        )


def of_recipe(setting, name):
    """The setting of a recipe of RECIPES."""
    changes = dict(RECIPES[name])
    size = changes.pop("size", setting.size)
    changes["steps"] = round(changes.pop("length", 1) * setting.finetune.steps)
    return replace(setting, size=size, finetune=changes)


def _cell(config, device, target, recipe, seed):
    """Rows of target, recipe, sampler, method and w, with each metric."""
    setting = of_recipe(replace(config.setting, domain=target), recipe)
    judge, pre = prepared(setting, config.base, seed, device)
    tuned = finetuned(setting, seed, pre)[setting.finetune.steps]
    tuned, pre, found = tuned.compile(), pre.compile(), []
    for sampler in config.samplers if recipe == MAIN else config.samplers[:1]:
        solver, share = SAMPLERS[sampler]
        for name, w, method in methods(tuned, pre, config.weights, ("none", *METHODS)):
            options = dict(generator=torch.Generator(device).manual_seed(seed)) if solver is ancestral else {}
            score = judge.judged(method, seed, sampler=solver, steps=share * setting.steps, **options)
            found.append(dict(target=target, recipe=recipe, sampler=sampler, method=name, w=w, score=score))
    return found


compute, run = in_cells(_cell, lambda config: [(t, r) for t in config.targets for r in config.recipes])


def shown(name):
    """The name of a recipe, as a reader sees it."""
    return name.replace(" a class", " per class")


def figure(record):
    """The Fréchet distance of each method at its own weight, by recipe and by sampler."""
    config = record["config"]
    first, targets = config["samplers"][0], config["targets"]
    places = {recipe: dict(recipe=recipe, sampler=first) for recipe in config["recipes"]}
    places |= {sampler: dict(recipe=MAIN, sampler=sampler) for sampler in config["samplers"][1:]}
    size, foot = (
        (9 * len(targets), 4.2),
        "each method at its own w, 95% t intervals; below, the first recipe by other samplers",
    )
    claim = "None, CFG, DoG: the same order by every recipe and every sampler"
    with frame([""] * len(targets), size, foot, claim=claim) as (fig, axes):
        for ax, target in zip(axes, targets, strict=True):
            for method in ("none", *METHODS):
                rows = [family(record, method, target=target, **where) for where in places.values()]
                mean, low, high = np.array([student(held_out(r)) for r in rows]).T
                look = plot.METHODS[method] | dict(linestyle="", label=method)
                ax.errorbar(mean, range(len(places)), xerr=(mean - low, high - mean), **look)
            ax.set_yticks(range(len(places)), map(shown, places))
            ax.axhline(len(config["recipes"]) - 0.5, color="#CCCCCC", linewidth=1)
            ax.invert_yaxis()
            ax.set(title=target, xlabel="Fréchet distance")
            ax.legend(fontsize=11)
    return fig
