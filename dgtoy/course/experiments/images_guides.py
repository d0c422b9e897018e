"""Small images: which guide, how many sampling steps, and what an interval saves. (C9 and C12 on images)"""

import dataclasses
import math
import pathlib
import time

import matplotlib.pyplot as plt
import numpy as np

from ... import shipped as weights
from ...checkpoint import read_safetensors, write_safetensors
from ...dit import EDM, DiT, load_weights
from ...guidance import cfg, domain_guidance, guided
from ...samplers import dpmpp_2m, heun
from .. import plot, recipes
from ..records import merge, record, row, rows
from .pictures import QUICK, Judge, Setting, cache_folder, cells, finetuned, named

GUIDES = {  # name in the record: what it is
    "ancestor": "DoG: the pre-trained model",
    "other seed": "pre-trained from another seed, half as long",
    "early ancestor": "the ancestor, at a sixteenth",
    "smaller": "a pre-trained model of a sixth the size",
    "own null": "CFG: the fine-tune's null branch",
    "weaker self": "autoguidance: fine-tuned a tenth",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """`w`: of all methods. `sampling`: (sampler, steps) pairs. `intervals`: None is no upper end. `recipe`: of the shipped model, of which the other guides are variants."""

    setting: Setting = QUICK
    stages: tuple = (60,)
    w: float = 1.5
    sampling: tuple = (("dpmpp_2m", 5), ("dpmpp_2m", 10))
    intervals: tuple = ((0.0, None), (0.2, 2.0))
    recipe: recipes.Config = dataclasses.replace(
        recipes.Config(), pretrain=dataclasses.replace(recipes.Config().pretrain, steps=32, batch=32)
    )

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(
            Setting(classes=62, size=20),
            (1000, 3000),
            sampling=(
                ("dpmpp_2m", 5),
                ("dpmpp_2m", 10),
                ("dpmpp_2m", 20),
                ("dpmpp_2m", 40),
                ("heun", 10),
                ("heun", 20),
                ("heun", 40),
            ),
            intervals=((0.0, None), (0.0, 2.0), (0.2, 2.0), (0.2, 8.0)),
            recipe=recipes.Config(),
        )


def run(config, device="cpu", progress=False):
    """Rows of stage, guide or sampler and steps or interval, and each metric by seed; with intervals the guide's share of calls."""
    found, seconds = compute(config, device, progress=progress)
    return record("images_guides", config, dict(rows=merge(found.values())), time.time() - seconds, device)


def stranger(kind, config, device):
    """A guide that is not the ancestor, pre-trained once and kept. kind: a pre-trained one of GUIDES.  -> EDM"""
    recipe = config.recipe
    steps = recipe.pretrain.steps
    changes, seed, share = {
        "other seed": ({}, 1, 2),
        "early ancestor": ({}, 0, 16),
        "smaller": (dict(hidden_size=96, depth=4), 2, 2),
    }[kind]
    recipe = dataclasses.replace(
        recipe, **changes, pretrain=dataclasses.replace(recipe.pretrain, steps=max(1, steps // share))
    )
    path = (
        cache_folder()
        / f"{named('stranger', (kind, recipe), ('course/worlds/glyphs', 'dit/network', 'dit/denoisers', 'train', 'samplers'))}.safetensors"
    )
    if not path.exists():
        net = recipes.pretrain(recipe, seed, device)
        write_safetensors(
            path,
            {k: v.half() for k, v in net.net.state_dict().items() if k != "pos_embed"},
            dict(config=net.net.config),
        )
    return _stored(path, device)


def _stored(path, device):
    state, header = read_safetensors(pathlib.Path(path))
    net = DiT(**header["config"])
    load_weights(net, {k: v.float() for k, v in state.items()} | {"pos_embed": net.pos_embed}, path)
    return EDM(net).to(device).compile()


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return cells(
        "images_guides", _cell, [(config, device, s) for s in config.setting.each_seed()], part, progress
    )


def _cell(key):
    config, device, seed = key
    judge, pre, found = Judge(config.setting, device), weights.load("glyphs", device), []
    stages = config.stages
    kept = finetuned(
        config.setting.but(finetune=dict(steps=max(stages))),
        seed,
        device,
        at={*stages, *(max(1, s // 10) for s in stages)},
    )
    y, label_free = judge.label, lambda net: net.denoiser(net.null)
    add = lambda D, extra={}, sampler=dpmpp_2m, steps=None, **where: found.append(
        dict(**where, score=judge.score(judge.sample(D, seed, sampler, steps)) | extra)
    )
    for stage in stages:
        ft = kept[stage]
        guides = {kind: label_free(stranger(kind, config, device)) for kind in list(GUIDES)[1:4]}
        guides |= {
            "ancestor": label_free(pre),
            "own null": label_free(ft),
            "weaker self": kept[max(1, stage // 10)].denoiser(y),
        }
        add(ft.denoiser(y), what="guide", stage=stage, guide="none")
        for name in GUIDES:
            add(guided(ft.denoiser(y), guides[name], config.w), what="guide", stage=stage, guide=name)
    _sampling(config, judge, ft, pre, add)
    return found


def _sampling(config, judge, ft, pre, add):
    y, guide = judge.label, pre.denoiser(pre.null)
    for name, steps in config.sampling:
        sampler = dict(dpmpp_2m=dpmpp_2m, heun=heun)[name]
        for method, D in (
            ("none", ft.denoiser(y)),
            ("CFG", cfg(ft, y, ft.null, config.w)),
            ("DoG", domain_guidance(ft.denoiser(y), guide, config.w)),
        ):
            add(D, what="sampling", sampler=sampler, steps=steps, name=name, n=steps, method=method)
    sigmas = judge.setting.sigmas()[:-1]
    for lo, hi in config.intervals:
        inside = (lo, math.inf if hi is None else hi)
        share = ((sigmas >= inside[0]) & (sigmas <= inside[1])).double().mean().item()
        add(
            domain_guidance(ft.denoiser(y), guide, config.w, inside),
            dict(guide_calls=share),
            what="interval",
            lo=lo,
            hi=hi,
        )


def figure(record):
    """Each guide's Fréchet distance at each stage, and each method's against the number of network evaluations."""
    config = record["config"]
    looks = {"ancestor": "DoG", "own null": "CFG", "weaker self": "autoguidance"}
    names, stages = ["none", *GUIDES], config["stages"]
    with plot.style():
        fig, axes = plt.subplots(1, len(stages) + 1, figsize=(6.5 * (len(stages) + 1), 5.2))
        for i, (ax, stage) in enumerate(zip(axes, stages, strict=False)):
            values = [row(record, what="guide", stage=stage, guide=n)["frechet"] for n in names]
            plot.bars(
                ax,
                values,
                ["not guided", *GUIDES.values()] if i == 0 else [""] * len(names),
                [looks.get(n, "none") for n in names],
            )
            ax.set(xlabel="Fréchet distance", title=f"Which guide? {stage} steps, w = {config['w']:g}")
        ax = axes[-1]
        for method in ("none", "CFG", "DoG"):
            found = rows(record, what="sampling", name="dpmpp_2m", method=method)
            plot.sweep(
                ax, [r["n"] for r in found], [r["frechet"] for r in found], method, f"{method}, DPM-Solver++"
            )
            heuns = rows(record, what="sampling", name="heun", method=method)
            if heuns:
                ax.plot(
                    [2 * r["n"] - 1 for r in heuns],
                    [np.mean(r["frechet"]) for r in heuns],
                    "x",
                    color=plot.METHODS[method]["color"],
                    markersize=9,
                )
        ax.set(
            xlabel="calls of each network (crosses: Heun)",
            ylabel="Fréchet distance",
            title="Ten steps are enough",
        )
        ax.legend(fontsize=11, loc="upper right", bbox_to_anchor=(1, 0.88))
        fig.supxlabel(
            f"{config['setting']['classes']} classes, {config['setting']['size']} images a class; {len(record['seeds'])} seeds, 95% bootstrap intervals",
            fontsize=11,
        )
    return fig
