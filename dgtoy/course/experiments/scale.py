"""DiT's own process on glyphs of 64 pixels as 4 x 32 x 32, the input of DiT-256: the paper's
tables on a DiT trained here. (C15)

The model is pre-trained once on the source, kept in the cache, and fine-tuned by the pipeline's
own code; samples are drawn by the pipeline's own code as well. What differs from the paper:
data, size of the network, length of training.
"""

import dataclasses
import math
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
from ..records import family, held_out, merge, record, row, rows
from .scale_setup import TARGETS, LatentJudge, codes, pretrained, ready

SMALL = dict(hidden_size=32, depth=2, num_heads=2, patch_size=4)
VARIANTS = {"full": dict(), "no label dropout": dict(dropout=0.0), "LoRA": dict(rank=16, lr=5e-4)}
METHODS = (("none", "none"), ("cfg", "CFG"), ("dog", "DoG"))
GUIDES = ("pre-trained null", "pre-trained label", "fine-tuned null", "other model", "weaker self")


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """network, other: sizes of the model and of another one that guides. images, other_images, batch: of
    pre-training. The seeds are first, first + 1, ...; the two models' own are first and first + 1.

    targets, variants: of TARGETS and VARIANTS; variants beyond the first are run on the first target alone.
    stages: fine-tuning steps at which it is sampled, before the last at the second weight alone. sampler,
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
    pairs = [(t, config.variants[0]) for t in config.targets]
    pairs += [(config.targets[0], v) for v in config.variants[1:]]
    return [(t, v, s) for s in range(config.first, config.first + config.seeds) for t, v in pairs]


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return cache.cells(_cell, config, device, keys(config), part, progress)


def run(config, device="cpu", progress=False):
    """Rows of table, target, variant, step, method and what else the table varies, each metric
    by seed; `floor` by target."""
    found, seconds = compute(config, device, progress=progress)
    groups = {}
    for key, result in found.items():
        groups.setdefault(key[:2], []).append(result)
    rows = [row for group in groups.values() for row in merge(group)]
    floors = {t: LatentJudge(config, t, device).floor(range(3)) for t in config.targets}
    return record("scale", config, dict(rows=rows, floor=floors), time.time() - seconds, device)


def tuned_at(config, base, judge, variant, seed, device):
    """The fine-tune at every stage, and at a tenth of the last.  -> {step: VP}"""
    world = judge.world
    x0, label = world.sample(
        config.size * world.num_classes, generator=torch.Generator().manual_seed(9_000 + seed), device=device
    )
    data = tuning.LatentTensors(codes(x0), label, world.num_classes)
    recipe = dataclasses.replace(config.recipe, seed=seed, **VARIANTS[variant])
    net = (
        add_lora(base, world.num_classes, recipe.rank, seed)
        if recipe.rank
        else base.with_classes(world.num_classes, seed)
    )
    ready(net)
    kept = tuning.averaged(net, data, recipe, {*config.stages, max(1, max(config.stages) // 10)})
    return {step: ready(net) for step, net in kept.items()}


def _cell(config, device, target, variant, seed):
    base, judge, found = (
        pretrained(config, config.network, config.first, device),
        LatentJudge(config, target, device),
        [],
    )
    kept = tuned_at(config, base, judge, variant, seed, device)
    where = dict(target=target, variant=variant)

    def add(table, tuned, guide, rest, **changes):
        found.append(
            dict(
                table=table, **where, **rest, score=judge.score(judge.latents(tuned, guide, seed, **changes))
            )
        )

    for stage in config.stages:
        tuned = kept[stage]
        guide = lora_guide(tuned) if VARIANTS[variant].get("rank") else base
        found.append(
            dict(
                table="calibration", **where, step=stage, score=_calibrated(config, judge, tuned, guide, seed)
            )
        )
        add("weight", tuned, guide, dict(step=stage, method="none", w=1.0), method="none")
        for w in config.weights if stage == max(config.stages) else config.weights[1:2] or config.weights:
            for method in ("cfg", "dog"):
                add("weight", tuned, guide, dict(step=stage, method=method, w=w), method=method, w=w)
    if (target, variant) == (config.targets[0], config.variants[0]):
        _plane(config, kept, base, judge, seed, found)
        for sampler, steps in config.step_table:
            for method in ("none", "cfg", "dog"):
                add(
                    "steps",
                    kept[max(config.stages)],
                    base,
                    dict(sampler=sampler, steps=steps, method=method),
                    method=method,
                    w=1.5,
                    sampler=sampler,
                    steps=steps,
                )
        _guides(config, kept, base, judge, device, add)
    return found


def _calibrated(config, judge, tuned, guide, seed):
    """Weights that held-out images ask for, as a score for each level: {"DoG 8": w,
    ..., "a 8": a, "b 8": b}."""
    x0 = judge.draw(config.held_out, 7_000 + seed)
    classes = judge.world.num_classes
    data = tuning.LatentTensors(x0, torch.arange(len(x0)) % classes, classes)
    found = calibration.calibrate(
        tuned,
        guide,
        data,
        calibration.Config(levels=config.levels, count=config.held_out, seed=seed),
        judge.device,
    )
    names = {"DoG": (("DoG", 0),), "CFG": (("CFG", 0),), "plane": (("a", 0), ("b", 1))}
    return {
        f"{name} {s:g}": round(found[m].weights[i, column].item(), 4)
        for m in names
        for name, column in names[m]
        for i, s in enumerate(config.levels)
    }


def _plane(config, kept, base, judge, seed, found):
    for stage in config.stages:
        tuned = kept[stage]
        for a in config.plane:
            for b in config.plane:
                trio = [base.denoiser(base.null), tuned.denoiser(tuned.null)]
                x = judge.sample(lambda y: plane(*trio, tuned.denoiser(y), a, b), seed)
                found.append(dict(table="plane", step=stage, a=a, b=b, score=judge.score(x)))


def _guides(config, kept, base, judge, device, add):
    """Which guide, at w = 1.5: each takes the place that DoG's or autoguidance's guide has."""
    last, other = (
        kept[max(config.stages)],
        pretrained(config, config.other, config.first + 1, device, images=config.other_images),
    )
    names = {
        "pre-trained null": ("dog", base),
        "pre-trained label": ("autoguidance", base),
        "fine-tuned null": ("cfg", None),
        "other model": ("dog", other),
        "weaker self": ("autoguidance", kept[max(1, max(config.stages) // 10)]),
    }
    for name in GUIDES:
        method, guide = names[name]
        add("guide", last, guide, dict(guide=name), method=method, w=1.5)


def of_weight(ax, record, target, variant="full"):
    """Fréchet distance over w, after the last stage."""
    at = dict(table="weight", target=target, variant=variant, step=record["config"]["stages"][-1])
    none = row(record, method="none", **at)["frechet"]
    for method, name in METHODS[1:]:
        found = rows(record, method=method, **at)
        plot.sweep(ax, [1.0, *(r["w"] for r in found)], [none, *(r["frechet"] for r in found)], name)
    ax.set(xlabel="guidance weight w", title=f"Weight; target: {target}")


def grouped(ax, groups):
    """Bars of none, CFG and DoG for each group, {name: function of the method's key -> values by seed}."""
    for i, values in enumerate(groups.values()):
        for k, (method, name) in enumerate(METHODS):
            plot.bar(ax, i + 0.25 * (k - 1), values(method), name, name if i == 0 else None, width=0.22)
    ax.set_xticks(range(len(groups)), groups, rotation=20)


def of_target(ax, record, w):
    """Every target at one weight."""
    at = lambda target: (
        lambda method: row(
            record,
            table="weight",
            target=target,
            variant="full",
            step=record["config"]["stages"][-1],
            method=method,
            w=1.0 if method == "none" else w,
        )["frechet"]
    )
    grouped(ax, {t: at(t) for t in record["config"]["targets"]})
    ax.set_title(f"Targets, w = {w:g}")


def of_variant(ax, record):
    """The first target by kind of fine-tune, each method at its own weight."""
    config = record["config"]
    where = dict(table="weight", target=config["targets"][0], step=config["stages"][-1])
    at = lambda variant: lambda method: held_out(family(record, method, variant=variant, **where))
    grouped(ax, {v: at(v) for v in config["variants"]})
    ax.set_title("Kind of fine-tune, best w")


def of_sampler(ax, record):
    """The first target by sampler and number of steps."""
    kinds = [(r["sampler"], r["steps"]) for r in rows(record, table="steps", method="none")]
    at = lambda sampler, steps: (
        lambda method: row(record, table="steps", sampler=sampler, steps=steps, method=method)["frechet"]
    )
    grouped(ax, {f"{s} {n}": at(s, n) for s, n in kinds})
    ax.set_title("Sampler and steps, w = 1.5")


def of_duration(ax, record, w):
    """The first target by length of fine-tuning."""
    config = record["config"]
    for method, name in METHODS:
        weight = 1.0 if method == "none" else w
        plot.sweep(
            ax,
            config["stages"],
            [
                row(
                    record,
                    table="weight",
                    target=config["targets"][0],
                    variant="full",
                    step=s,
                    method=method,
                    w=weight,
                )["frechet"]
                for s in config["stages"]
            ],
            name,
        )
    ax.set(xlabel="fine-tuning steps", title="How long it was fine-tuned", xscale="log")
    ax.set_xticks(config["stages"], config["stages"])
    ax.minorticks_off()


def of_guide(ax, record):
    """The first target by guide."""
    plot.bars(
        ax,
        [row(record, table="guide", guide=g)["frechet"] for g in GUIDES],
        GUIDES,
        ["DoG", "DoG", "CFG", "none", "autoguidance"],
    )
    ax.set(xlabel="Fréchet distance", title="Which guide? w = 1.5")


def figure(record):
    """The paper's tables as pictures: weight, targets, kind and length of fine-tuning, guide, sampler;
    those that the record has."""
    config = record["config"]
    w = 1.5 if 1.5 in config["weights"] else config["weights"][0]
    panels = [
        lambda ax: of_weight(ax, record, config["targets"][0]),
        lambda ax: of_target(ax, record, w),
        lambda ax: of_guide(ax, record),
        lambda ax: of_sampler(ax, record),
    ]
    panels[2:2] = [lambda ax: of_variant(ax, record)] * (len(config["variants"]) > 1) + [
        lambda ax: of_duration(ax, record, w)
    ] * (len(config["stages"]) > 1)
    with plot.style():
        columns = math.ceil(len(panels) / 2)
        fig, axes = plt.subplots(2, columns, figsize=(5 * columns, 8.4))
        for draw, ax in zip(panels, axes.flat, strict=False):
            draw(ax)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        axes[0, 1].legend(fontsize=11)
        for ax in axes[:, 0]:
            if not ax.get_xlabel().startswith("Fréchet"):
                ax.set_ylabel("Fréchet distance")
        fig.supxlabel(
            f"{config['size']} images a class; {len(record['seeds'])} seeds, 95% bootstrap intervals",
            fontsize=11,
        )
    return fig
