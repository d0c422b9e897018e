"""DiT's own process on glyphs of 64 pixels as 4 x 32 x 32, the input of DiT-256: the paper's
tables on a DiT trained here. (C15)

The model is pre-trained once on the source, kept in the cache, and fine-tuned by the pipeline's
own code; samples are drawn by the pipeline's own code as well. What differs from the paper:
data, size of the network, length of training.
"""

import dataclasses
import functools
import itertools
import time

import matplotlib.pyplot as plt
import torch

from ...dit import CONFIGS
from ...guidance import plane
from ...interop import add_lora, lora_guide
from ...pipeline import calibrate as calibration
from ...pipeline import finetune as tuning
from .. import cache, plot
from ..lab import Presets
from ..pictures import tenth
from ..records import family, held_out, merge, record, values
from .scale_setup import TARGETS, LatentJudge, codes, pretrained, ready

W = 1.5  # the paper's weight, one of every preset's
SMALL = dict(hidden_size=32, depth=2, num_heads=2, patch_size=4)
VARIANTS = {"full": dict(), "no label dropout": dict(dropout=0.0), "LoRA": dict(rank=16, lr=5e-4)}
METHODS = (("none", "none"), ("cfg", "CFG"), ("dog", "DoG"))
GUIDES = ("pre-trained null", "pre-trained label", "fine-tuned null", "other model", "weaker self")


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """network, other: sizes of the model and of another one that guides. images, other_images, batch: of
    pre-training. The seeds are first, first + 1, ...; the two models' own are first and first + 1.

    targets, variants: of TARGETS and VARIANTS; variants beyond the first are run on the first target alone.
    stages: fine-tuning steps at which it is sampled, before the last at W alone. sampler,
    steps: of every table but that of steps.
    """

    network: dict = dataclasses.field(default_factory=lambda: SMALL)
    other: dict = dataclasses.field(default_factory=lambda: SMALL)
    images: int = 512
    other_images: int = 512
    batch: int = 32
    lr: float = 3e-4
    targets: tuple = ("course",)
    variants: tuple = ("full",)
    seeds: int = 2
    first: int = 0
    size: int = 4  # images a class
    recipe: tuning.Config = tuning.Config(steps=8, batch=16, lr=1e-3, ema=0.99)
    stages: tuple = (4, 8)
    weights: tuple = (1.5,)
    sampler: str = "dpmpp_2m"
    steps: int = 4
    step_table: tuple = (("ddim", 4),)
    plane: tuple = ()  # weights a and b, each with each
    levels: tuple = (8.0, 1.0)
    held_out: int = 62
    samples: int = 124
    truth: int = 300

    @classmethod
    def full(cls):
        return cls(
            CONFIGS["DiT-B/2"],
            CONFIGS["DiT-S/2"],
            images=2_400_000,
            other_images=1_000_000,
            batch=256,
            lr=4e-4,
            targets=tuple(TARGETS),
            variants=tuple(VARIANTS),
            seeds=2,
            size=50,
            recipe=tuning.Config(steps=1000, batch=64, lr=1e-4, ema=0.999),
            stages=(200, 1000),
            weights=(1.25, 1.5, 2.0, 3.0),
            steps=12,
            step_table=(
                ("ddpm", 25),
                ("ddpm", 50),
                ("ddim", 10),
                ("ddim", 25),
                ("dpmpp_2m", 8),
                ("dpmpp_2m", 24),
            ),
            plane=(1.0, 1.5, 2.0),
            levels=calibration.LEVELS,
            held_out=620,
            samples=496,
            truth=8000,
        )

    @classmethod
    def replica(cls):
        """The model is pre-trained anew, from other seeds."""
        changes = dict(seeds=3, first=100, variants=("full",), stages=(1000,), plane=())
        return dataclasses.replace(cls.full(), **changes, step_table=(("ddpm", 25), ("dpmpp_2m", 24)))


def keys(config):
    """(target, variant, seed) of every cell: all targets in full, the first target in every variant."""
    targets, variants = config.targets, config.variants
    pairs = [(t, v) for v in variants for t in targets if v == variants[0] or t == targets[0]]
    return [(*pair, s) for s in range(config.first, config.first + config.seeds) for pair in pairs]


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return cache.cells(_cell, config, device, keys(config), part, progress)


def run(config, device="cpu", progress=False):
    """Rows of table, target, variant, step, method and what else the table varies, each metric
    by seed; `floor` by target."""
    found, seconds = compute(config, device, progress=progress)
    floors = {t: LatentJudge(config, t, device).floor(range(3)) for t in config.targets}
    results = dict(rows=merge(found.values()), floor=floors)
    return record("scale", config, results, time.time() - seconds, device)


def tuned_at(config, base, judge, variant, seed):
    """The fine-tune at every stage, and at a tenth of the last.  -> {step: VP}"""
    classes, g = judge.world.num_classes, torch.Generator().manual_seed(9_000 + seed)
    x0, label = judge.world.sample(config.size * classes, generator=g, device=judge.device)
    data = tuning.LatentTensors(codes(x0), label, classes)
    recipe = dataclasses.replace(config.recipe, seed=seed, **VARIANTS[variant])
    net = add_lora(base, classes, recipe.rank, seed) if recipe.rank else base.with_classes(classes, seed)
    kept = tuning.averaged(ready(net), data, recipe, {*config.stages, tenth(config.stages[-1])})
    return {step: ready(net) for step, net in kept.items()}


def _cell(config, device, target, variant, seed):
    base = pretrained(config, config.network, config.first, device)
    judge = LatentJudge(config, target, device)
    tuned, last, found = tuned_at(config, base, judge, variant, seed), config.stages[-1], []

    def add(table, score, **fields):
        found.append(dict(table=table, target=target, variant=variant, **fields, score=score))

    def sampled(net, guide, w=W, **how):
        return judge.score(judge.latents(net, guide, seed, w=w, **how))

    for step in config.stages:
        net = tuned[step]
        guide = lora_guide(net) if variant == "LoRA" else base
        add("calibration", _calibrated(config, judge, net, guide, seed), step=step)
        weights = config.weights if step == last else (W,)
        for w, method in [(1.0, "none"), *itertools.product(weights, ("cfg", "dog"))]:
            add("weight", sampled(net, guide, w, method=method), step=step, method=method, w=w)
    if (target, variant) != (config.targets[0], config.variants[0]):
        return found

    # the first target alone: the plane, samplers, guides
    pre = base.denoiser(base.null)
    for step, a, b in itertools.product(config.stages, config.plane, config.plane):
        net = tuned[step]
        x = judge.sample(lambda y: plane(pre, net.denoiser(net.null), net.denoiser(y), a, b), seed)
        found.append(dict(table="plane", step=step, a=a, b=b, score=judge.score(x)))
    for (sampler, steps), (method, _) in itertools.product(config.step_table, METHODS):
        how = dict(sampler=sampler, steps=steps, method=method)
        add("steps", sampled(tuned[last], base, **how), **how)
    less = dataclasses.replace(config, images=config.other_images)
    other = pretrained(less, config.other, config.first + 1, device)
    guides = (  # each takes the place that DoG's or autoguidance's guide has
        ("dog", base),
        ("autoguidance", base),
        ("cfg", None),
        ("dog", other),
        ("autoguidance", tuned[tenth(last)]),
    )
    for name, (method, guide) in zip(GUIDES, guides, strict=True):
        add("guide", sampled(tuned[last], guide, method=method), guide=name)
    return found


def _calibrated(config, judge, tuned, guide, seed):
    """Weights that held-out images ask for, as a score for each level: {"DoG 8": w,
    ..., "a 8": a, "b 8": b}."""
    x0, classes = judge.draw(config.held_out, 7_000 + seed), judge.world.num_classes
    data = tuning.LatentTensors(x0, torch.arange(len(x0)) % classes, classes)
    asked = calibration.Config(config.levels, config.held_out, seed)
    found = calibration.calibrate(tuned, guide, data, asked, judge.device)
    return {
        f"{name} {level:g}": round(found[method].weights[i, column].item(), 4)
        for name, method, column in (
            ("DoG", "DoG", 0),
            ("CFG", "CFG", 0),
            ("a", "plane", 0),
            ("b", "plane", 1),
        )
        for i, level in enumerate(config.levels)
    }


def frechet(record, method, w=W, **where):
    """Fréchet distance of a method, by seed; after the last stage of a full fine-tune on the first
    target, where nothing else is said.  -> (S,)"""
    where = in_full(record, **where)
    return values(record, "frechet", method=method, w=1.0 if method == "none" else w, **where)


def in_full(record, **where):
    """What rows of the table of weights are found by: `where`, and else the first target,
    fine-tuned in full, at the last stage."""
    config = record["config"]
    usual = dict(target=config["targets"][0], variant="full", step=config["stages"][-1])
    return dict(table="weight") | usual | where


def own(record, method, **where):
    """Fréchet distance at the method's own weight, chosen on other seeds.  -> (S,)"""
    return held_out(family(record, method, **in_full(record, **where)))


def of_weight(ax, record, target="course"):
    """Fréchet distance over w, after the last stage."""
    for method, name in METHODS[1:]:
        found = family(record, method, **in_full(record, target=target))
        plot.sweep(ax, [r["w"] for r in found], [r["frechet"] for r in found], name)
    ax.set(xlabel="guidance weight w", title=f"Weight; target: {target}")


def grouped(ax, groups, distance):
    """Bars of none, CFG and DoG for each group {name: fields}: distance(method, **fields), by seed."""
    for i, where in enumerate(groups.values()):
        for k, (method, name) in enumerate(METHODS):
            label = name if i == 0 else None
            plot.bar(ax, i + 0.25 * (k - 1), distance(method, **where), name, label, width=0.22)
    ax.set_xticks(range(len(groups)), groups, rotation=20)


def of_target(ax, record):
    """Every target at one weight."""
    grouped(ax, {t: dict(target=t) for t in record["config"]["targets"]}, functools.partial(frechet, record))
    ax.set_title(f"Targets, w = {W:g}")


def of_variant(ax, record):
    """The first target by kind of fine-tune, each method at its own weight."""
    grouped(ax, {v: dict(variant=v) for v in record["config"]["variants"]}, functools.partial(own, record))
    ax.set_title("Kind of fine-tune, best w")


def of_sampler(ax, record):
    """The first target by sampler and number of steps."""
    table = [dict(table="steps", sampler=s, steps=n) for s, n in record["config"]["step_table"]]
    groups = {f"{g['sampler']} {g['steps']}": g for g in table}
    grouped(ax, groups, lambda method, **where: values(record, "frechet", method=method, **where))
    ax.set_title(f"Sampler and steps, w = {W:g}")


def of_duration(ax, record, w=W):
    """The first target by length of fine-tuning."""
    stages = record["config"]["stages"]
    for method, name in METHODS:
        plot.sweep(ax, stages, [frechet(record, method, w, step=s) for s in stages], name)
    ax.set(xlabel="fine-tuning steps", ylabel=plot.NAMES["frechet"], title="How long it was fine-tuned")
    ax.set(xscale="log")
    ax.set_xticks(stages, stages)
    ax.minorticks_off()


def of_guide(ax, record):
    """The first target by guide."""
    found = [values(record, "frechet", table="guide", guide=g) for g in GUIDES]
    plot.bars(ax, found, GUIDES, ["DoG", "DoG", "CFG", "none", "autoguidance"])
    ax.set(xlabel=plot.NAMES["frechet"], title=f"Which guide? w = {W:g}")


def figure(record):
    """The paper's tables as pictures: weight, targets, kind and length of fine-tuning, guide, sampler."""
    panels = (of_weight, of_target, of_variant, of_duration, of_guide, of_sampler)
    with plot.style():
        fig, axes = plt.subplots(2, 3, figsize=(15, 8.4))
        for panel, ax in zip(panels, axes.flat, strict=True):
            panel(ax, record)
        axes[0, 0].set_ylabel(plot.NAMES["frechet"])
        axes[0, 1].legend(fontsize=11)
        size, seeds = record["config"]["size"], len(record["seeds"])
        fig.supxlabel(f"{size} images a class; {seeds} seeds, 95% t intervals", fontsize=11)
    return fig
