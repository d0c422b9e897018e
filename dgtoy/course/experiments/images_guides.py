"""Small images: which guide, how many sampling steps, and what an interval saves. (C9 and C12 on images)"""

import dataclasses
import math

import numpy as np

from ...checkpoint import read_safetensors, write_safetensors
from ...dit import EDM, DiT, load_weights
from ...guidance import domain_guidance, guided
from ...samplers import dpmpp_2m
from .. import cache, plot, recipes
from ..lab import methods, replace
from ..pictures import BROAD, PictureConfig, course, prepared, tenth
from ..records import caption, rows, values
from .guides import compare, label_free
from .panels import curve, frame
from .runs import in_cells
from .steps import SAMPLERS

GUIDES = {  # name in the record: what it is
    "ancestor": "DoG: the pre-trained model",
    "other seed": "pre-trained from another seed, half as long",
    "early ancestor": "the ancestor, at a sixteenth",
    "smaller": "a pre-trained model of a sixth the size",
    "own null": "CFG: the fine-tune's null branch",
    "weaker self": "autoguidance: fine-tuned a tenth",
}
STRANGERS = {  # a guide that is not the ancestor: what of its recipe differs, its seed, the part of the steps
    "other seed": (dict(), 1, 2),
    "early ancestor": (dict(), 0, 16),
    "smaller": (dict(hidden_size=96, depth=4), 2, 2),
}


@dataclasses.dataclass(frozen=True)
class Config(PictureConfig):
    """`w`: of all methods. `sampling`: (sampler, steps) pairs. `intervals`: None is no upper end.
    `recipe`: of the shipped model, of which the other guides are variants."""

    stages: tuple = (60,)
    w: float = 1.5
    sampling: tuple = (("dpmpp_2m", 5), ("dpmpp_2m", 10))
    intervals: tuple = ((0.0, None), (0.2, 2.0))
    recipe: recipes.Config = replace(recipes.Config(), pretrain=dict(steps=32, batch=32))

    @classmethod
    def full(cls):
        return cls(
            BROAD,
            (1000, 3000),
            sampling=tuple(("dpmpp_2m", n) for n in (5, 10, 20, 40))
            + tuple(("heun", n) for n in (10, 20, 40)),
            intervals=((0.0, None), (0.0, 2.0), (0.2, 2.0), (0.2, 8.0)),
            recipe=recipes.Config(),
        )


def stranger(kind, config, device):
    """A guide of STRANGERS, pre-trained once and kept.  -> EDM"""
    changes, seed, part = STRANGERS[kind]
    steps = max(1, config.recipe.pretrain.steps // part)
    recipe = replace(config.recipe, **changes, pretrain=dict(steps=steps))
    path = cache.path("stranger", (recipe, seed, str(device)), (stranger, type(recipe)))
    if not path.exists():
        made = recipes.pretrain(recipe, seed, device).net
        state = {k: v.half() for k, v in made.state_dict().items() if k != "pos_embed"}
        with cache.writing():
            write_safetensors(path, state, dict(config=made.config))
    state, header = read_safetensors(path)
    net = DiT(**header["config"])
    load_weights(net, {k: v.float() for k, v in state.items()} | {"pos_embed": net.pos_embed}, path)
    return EDM(net).to(device).compile()


def _cell(config, device, seed):
    """Rows of stage, guide or sampler and steps or interval, and each metric; with intervals the guide's
    share of calls."""
    judge, pre = prepared(config.setting, device)
    tuned, found = course(config.setting, config.stages, seed, device), []

    def add(method, /, more=None, sampler=dpmpp_2m, steps=None, **where):
        score = judge.judged(method, seed, sampler=sampler, steps=steps)
        found.append(dict(**where, score=score | (more or {})))

    strangers = {kind: label_free(stranger(kind, config, device)) for kind in STRANGERS}
    for stage in config.stages:
        ft = tuned[stage]
        own = {"own null": label_free(ft), "weaker self": tuned[tenth(stage)].denoiser}
        guides = {"ancestor": label_free(pre)} | strangers | own
        add(ft.denoiser, what="guide", stage=stage, guide="none")
        for name in GUIDES:
            method = lambda y: guided(ft.denoiser(y), guides[name](y), config.w)
            add(method, what="guide", stage=stage, guide=name)
    for sampler, steps in config.sampling:
        for name, _, method in methods(ft, pre, [config.w]):
            where = dict(what="sampling", name=sampler, n=steps, method=name)
            add(method, sampler=SAMPLERS[sampler], steps=steps, **where)
    sigmas = config.setting.sigmas()[:-1]
    for lo, hi in config.intervals:
        inside = (lo, math.inf if hi is None else hi)
        share = ((sigmas >= inside[0]) & (sigmas <= inside[1])).double().mean().item()
        method = lambda y: domain_guidance(ft.denoiser(y), pre.denoiser(pre.null), config.w, inside)
        add(method, dict(guide_calls=share), what="interval", lo=lo, hi=hi)
    return found


compute, run = in_cells(_cell)


def figure(record):
    """Each guide's Fréchet distance at each stage, and each method's against
    the number of network evaluations."""
    config = record["config"]
    stages = config["stages"]
    titles = [f"Which guide? {stage} steps, w = {config['w']:g}" for stage in stages]
    titles.append("Ten steps are enough")
    with frame(titles, (6.5 * len(titles), 5.2), caption(record)) as (fig, axes):
        for ax, stage in zip(axes, stages, strict=False):
            compare(ax, GUIDES, lambda g: values(record, "frechet", what="guide", stage=stage, guide=g))
            ax.set(xlabel="Fréchet distance")
        for ax in axes[1:-1]:
            ax.set_yticks(ax.get_yticks(), [""] * len(ax.get_yticks()))
        _over_calls(axes[-1], record)
    return fig


def _over_calls(ax, record):
    """Each method against the calls of each network: DPM-Solver++ by lines, Heun, two
    calls a step, by crosses."""
    for method in ("none", "CFG", "DoG"):
        found = {s: rows(record, what="sampling", name=s, method=method) for s in ("dpmpp_2m", "heun")}
        curve(ax, found["dpmpp_2m"], "n", "frechet", method, f"{method}, DPM-Solver++")
        calls = [2 * r["n"] - 1 for r in found["heun"]]
        means = [np.mean(r["frechet"]) for r in found["heun"]]
        ax.plot(calls, means, "x", color=plot.METHODS[method]["color"], markersize=9)
    ax.set(xlabel="calls of each network (crosses: Heun)", ylabel="Fréchet distance")
    ax.legend(fontsize=11, loc="upper right", bbox_to_anchor=(1, 0.88))
