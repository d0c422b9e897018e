"""DiT's own process on glyphs of 64 pixels as 4 x 32 x 32, the input of DiT-256: the paper's tables on a DiT trained here. (C15)

The model is pre-trained once on the source, kept in the cache, and fine-tuned by the pipeline's own code; samples are
drawn by the pipeline's own code as well. What differs from the paper: data, size of the network, length of training.
"""

import dataclasses
import math
import time

import matplotlib.pyplot as plt
import torch
from tqdm import tqdm

from .. import glyphs, plot, vp
from ..checkpoint import read_safetensors, write_safetensors
from ..dit import CONFIGS, VP, DiT, load_weights
from ..guidance import plane
from ..interop import add_lora, lora_guide
from ..latents import Unshuffle
from ..pipeline import calibrate as calibration
from ..pipeline import finetune as tuning
from ..pipeline import sample as sampling
from ..samplers import dpmpp_2m, last
from . import pictures
from .base import record, row, rows
from .images import merge

SMALL = dict(hidden_size=32, depth=2, num_heads=2, patch_size=4)
TARGETS = {                                                # name: which target, see glyphs.target
    "course": dict(), "other fonts": dict(layout=1), "wide": dict(narrow=0.5), "ten digits": dict(classes=10), "outside": dict(gap=1.5),
}
VARIANTS = {"full": dict(), "no label dropout": dict(dropout=0.0), "LoRA": dict(rank=16, lr=5e-4)}
GUIDES = ("pre-trained null", "pre-trained label", "fine-tuned null", "other model", "weaker self")


@dataclasses.dataclass(frozen=True)
class Config:
    """network, other: sizes of the model and of another one that guides. pretraining: images in all, and its batch.

    targets, variants: of TARGETS and VARIANTS; variants beyond the first are run on the first target alone.
    stages: fine-tuning steps at which it is sampled. sampler, steps: of every table but that of steps.
    """

    network: dict = dataclasses.field(default_factory=lambda: SMALL)
    other: dict = dataclasses.field(default_factory=lambda: SMALL)
    images: int = 512
    batch: int = 32
    lr: float = 3e-4
    targets: tuple = ("course",)
    variants: tuple = ("full",)
    seeds: int = 2
    size: int = 4                                          # images a class
    recipe: tuning.Config = tuning.Config(steps=8, batch=16, lr=1e-3, ema=0.99)
    stages: tuple = (4, 8)
    weights: tuple = (1.5,)
    sampler: str = "dpmpp_2m"
    steps: int = 4
    step_table: tuple = (("ddim", 4),)
    plane: tuple = ()                                      # weights a and b, each with each
    levels: tuple = (8.0, 1.0)
    held_out: int = 62
    samples: int = 62
    truth: int = 300

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(CONFIGS["DiT-B/2"], CONFIGS["DiT-S/2"], images=1_600_000, batch=256, lr=2e-4, targets=tuple(TARGETS), variants=tuple(VARIANTS), seeds=3, size=50,
                   recipe=tuning.Config(steps=3000, batch=64, lr=1e-4, ema=0.999), stages=(300, 1000, 3000), weights=(1.25, 1.5, 2.0, 3.0), steps=16,
                   step_table=(("ddpm", 25), ("ddpm", 50), ("ddim", 10), ("ddim", 25), ("ddim", 50), ("dpmpp_2m", 8), ("dpmpp_2m", 32)), plane=(1.0, 1.5, 2.0), levels=calibration.LEVELS, held_out=620, samples=992, truth=8000)

    def world(self, target):
        """A target world at 64 pixels."""
        return glyphs.target(**dict(classes=62) | TARGETS[target], size=64)


def codes(images):
    """Images (n, 3, 64, 64) as latents (n, 4, 32, 32): grey, the squares of four pixels as channels."""
    return Unshuffle().encode(images)[0]


class Held:
    """A finite set of latents as `finetune` asks for one; a mirrored glyph is none, so none is mirrored."""

    def __init__(self, x0, label, classes):
        self.x0, self.label, self.classes, self.shape = x0.cpu(), label.cpu(), list(range(classes)), tuple(x0.shape[1:])

    def __len__(self):
        return len(self.x0)

    def draw(self, rows, flip, z):
        """x0 and label of these rows."""
        return self.x0[rows], self.label[rows]


class Judge(pictures.Judge):
    """The course's judge on decoded latents, at 32 pixels. The samples of a seed are the pipeline's: image i from its own noise."""

    def __init__(self, config, target, device):
        self.config = config
        super().__init__(Setting(target=config.world(target), samples=config.samples, truth=config.truth), device)

    def draw(self, n, seed):
        """Latents of fresh true images.  -> (n, 4, 32, 32)"""
        return codes(self.world.sample(n, generator=torch.Generator().manual_seed(seed), device=self.device)[0])

    def latents(self, tuned, guide, seed, batch=496, **changes):
        """Samples of a method; `changes` are fields of the pipeline's sampling configuration."""
        config = sampling.Config(sampler=self.config.sampler, steps=self.config.steps, count=self.setting.samples, seed=seed)
        config = dataclasses.replace(config, **changes)
        parts = [range(i, min(i + batch, config.count)) for i in range(0, config.count, batch)]
        return torch.cat([sampling.latents(tuned, guide, config, p, self.world.num_classes) for p in parts])

    def through(self, D, tuned, seed):
        """Samples of a denoiser, from the noise that every method starts from."""
        config = sampling.Config(seed=seed)
        x_T = sampling.noise(config, range(self.setting.samples), tuned.shape)[0].to(tuned.device)
        sigmas = sampling.levels(self.config.steps)
        return last(dpmpp_2m(D, sampling.scaled(x_T, sigmas), sigmas))

    def _read(self, x):
        small = [torch.nn.functional.interpolate(Unshuffle().decode(part), (32, 32), mode="bicubic", antialias=True) for part in x.clamp(-1, 1).split(2048)]
        return self.net.read(torch.cat(small))


@dataclasses.dataclass(frozen=True)
class Setting:
    """What `pictures.Judge` reads of a setting."""

    target: glyphs.World
    samples: int
    truth: int

    def world(self):
        return self.target


def pretrained(config, network, seed=0, device="cpu", progress=False):
    """A DiT trained on the source by DiT's loss, averaged; made once, kept in the cache.  -> VP"""
    path = pictures.cache_folder() / f"{pictures.named('scale', (network, seed, config.images, config.batch, config.lr), ('glyphs', 'dit/network', 'vp', 'experiments/scale'))}.safetensors"
    source = glyphs.World(size=64)
    net = VP(DiT(**dict(input_size=32, in_channels=4) | network, num_classes=source.num_classes, seed=seed)).to(device)
    if not path.exists():
        ema = _pretrain(net, source, config, seed, progress)
        write_safetensors(path, {k: v for k, v in ema.net.state_dict().items()}, {})
    load_weights(net.net, read_safetensors(path)[0], path)
    return ready(net)


def ready(net):
    """Compiled blocks on a GPU."""
    if net.device.type == "cuda":
        for block in net.net.blocks:
            block.compile()
    return net


def _pretrain(net, source, config, seed, progress):
    ema, process = net.clone(), vp.Process()
    ready(net)
    params, averages = (list(n.net.parameters()) for n in (net, ema))
    optimizer = torch.optim.AdamW(params, lr=config.lr, weight_decay=0, fused=True)
    g = torch.Generator(net.device).manual_seed(seed)
    steps = config.images // config.batch
    warm = max(1, min(1000, steps // 20))
    for step in tqdm(range(steps), "pre-train", disable=not progress, mininterval=10):
        x0, label = source.sample(config.batch, torch.randint(62, (config.batch,), generator=g, device=net.device), g, net.device)
        x0 = codes(x0)
        t = torch.randint(vp.TIMES, (config.batch,), generator=g, device=net.device)
        eps = torch.randn(x0.shape, generator=g, device=net.device)
        label = torch.where(torch.rand(config.batch, generator=g, device=net.device) < 0.1, net.null, label)
        x = process.noised(x0, t, eps)
        with torch.autocast(net.device.type, torch.bfloat16, enabled=net.device.type == "cuda"):
            out = net.net(x, t, label)
        loss = vp.training_loss(out.float(), x0, x, t, eps, process)[0].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:               # warm-up, then a cosine to a tenth
            group["lr"] = config.lr * min(1, (step + 1) / warm) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_([a.detach() for a in averages], [p.detach() for p in params], 1 - min(0.9995, (1 + step) / (10 + step)))
        if step % 500 == 0 and not bool(loss.isfinite()):
            raise FloatingPointError(f"the loss of pre-training is not finite at step {step + 1}")
    return ema


def keys(config, device):
    """(target, variant, seed) of every cell: all targets in full, the first target in every variant."""
    pairs = [(t, config.variants[0]) for t in config.targets] + [(config.targets[0], v) for v in config.variants[1:]]
    return [(repr(config), device, t, v, s) for t, v in pairs for s in range(config.seeds)]


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return pictures.cells("scale", lambda key: _cell(config, *key[1:]), keys(config, device), part, progress)


def run(config, device="cpu", progress=False):
    """Rows of table, target, variant, step, method and what else the table varies, each metric by seed; `floor` by target."""
    found, seconds = compute(config, device, progress=progress)
    groups = {}
    for key, result in found.items():
        groups.setdefault(key[2:4], []).append(result)
    rows = [row for group in groups.values() for row in merge(group)]
    floors = {t: Judge(config, t, device).floor(range(3)) for t in config.targets}
    return record("scale", config, dict(rows=rows, floor=floors), time.time() - seconds, device)


def tuned_at(config, base, judge, variant, seed, device):
    """The fine-tune at every stage, and at a tenth of the last.  -> {step: VP}"""
    world = judge.world
    x0, label = world.sample(config.size * world.num_classes, generator=torch.Generator().manual_seed(9_000 + seed), device=device)
    data = Held(codes(x0), label, world.num_classes)
    recipe = dataclasses.replace(config.recipe, seed=seed, **VARIANTS[variant])
    net = add_lora(base, world.num_classes, recipe.rank, seed) if recipe.rank else base.with_classes(world.num_classes, seed)
    ready(net)
    kept = tuning.averaged(net, data, recipe, {*config.stages, max(1, max(config.stages) // 10)})
    return {step: ready(net) for step, net in kept.items()}


def _cell(config, device, target, variant, seed):
    base, judge, found = pretrained(config, config.network, 0, device), Judge(config, target, device), []
    kept = tuned_at(config, base, judge, variant, seed, device)
    where = dict(target=target, variant=variant)

    def add(table, tuned, guide, rest, **changes):
        found.append(dict(table=table, **where, **rest, score=judge.score(judge.latents(tuned, guide, seed, **changes))))
    for stage in config.stages:
        tuned = kept[stage]
        guide = lora_guide(tuned) if VARIANTS[variant].get("rank") else base
        found.append(dict(table="calibration", **where, step=stage, score=_calibrated(config, judge, tuned, guide, seed)))
        add("weight", tuned, guide, dict(step=stage, method="none", w=1.0), method="none")
        for w in config.weights:
            for method in ("cfg", "dog"):
                add("weight", tuned, guide, dict(step=stage, method=method, w=w), method=method, w=w)
        for a in config.plane:
            for b in config.plane:
                D = plane(guide.denoiser(guide.null), tuned.denoiser(tuned.null), tuned.denoiser(judge.label), a, b)
                found.append(dict(table="plane", **where, step=stage, a=a, b=b, score=judge.score(judge.through(D, tuned, seed))))
    if (target, variant) == (config.targets[0], config.variants[0]):
        for sampler, steps in config.step_table:
            for method in ("none", "cfg", "dog"):
                add("steps", kept[max(config.stages)], base, dict(sampler=sampler, steps=steps, method=method), method=method, w=1.5, sampler=sampler, steps=steps)
        _guides(config, kept, base, judge, device, add)
    return found


def _calibrated(config, judge, tuned, guide, seed):
    """Weights that held-out images ask for, as a score for each level: {"DoG 8": w, ..., "a 8": a, "b 8": b}."""
    x0 = judge.draw(config.held_out, 7_000 + seed)
    data = Held(x0, torch.arange(len(x0)) % judge.world.num_classes, judge.world.num_classes)
    found = calibration.calibrate(tuned, guide, data, calibration.Config(levels=config.levels, count=config.held_out, seed=seed), judge.device)
    names = {"DoG": (("DoG", 0),), "CFG": (("CFG", 0),), "plane": (("a", 0), ("b", 1))}
    return {f"{name} {s:g}": round(found[m].weights[i, column].item(), 4) for m in names for name, column in names[m] for i, s in enumerate(config.levels)}


def _guides(config, kept, base, judge, device, add):
    """Which guide, at w = 1.5: each takes the place that DoG's or autoguidance's guide has."""
    last, other = kept[max(config.stages)], pretrained(config, config.other, 1, device)
    names = {"pre-trained null": ("dog", base), "pre-trained label": ("autoguidance", base), "fine-tuned null": ("cfg", None), "other model": ("dog", other),
             "weaker self": ("autoguidance", kept[max(1, max(config.stages) // 10)])}
    for name in GUIDES:
        method, guide = names[name]
        add("guide", last, guide, dict(guide=name), method=method, w=1.5)


def figure(record):
    """The paper's tables as pictures: weight, targets, fine-tuning steps, guide, sampling steps."""
    config = record["config"]
    first, last, w = config["targets"][0], config["stages"][-1], 1.5 if 1.5 in config["weights"] else config["weights"][0]
    at = lambda **where: row(record, table="weight", variant="full", **where)["frechet"]
    with plot.style():
        fig, axes = plt.subplots(1, 5, figsize=(25, 4.8))
        for method, name in (("cfg", "CFG"), ("dog", "DoG")):
            plot.sweep(axes[0], [1.0, *config["weights"]], [at(target=first, step=last, method="none")]
                       + [at(target=first, step=last, method=method, w=v) for v in config["weights"]], name)
        for k, (method, name) in enumerate((("none", "none"), ("cfg", "CFG"), ("dog", "DoG"))):
            weight = 1.0 if method == "none" else w
            for i, target in enumerate(config["targets"]):
                plot.bar(axes[1], i + 0.25 * (k - 1), at(target=target, step=last, method=method, w=weight), name, name if i == 0 else None, width=0.22)
            plot.sweep(axes[2], config["stages"], [at(target=first, step=s, method=method, w=weight) for s in config["stages"]], name)
            found = rows(record, table="steps", sampler=config["step_table"][0][0], method=method)
            plot.sweep(axes[4], [r["steps"] for r in found], [r["frechet"] for r in found], name)
        plot.bars(axes[3], [row(record, table="guide", guide=g)["frechet"] for g in GUIDES], GUIDES, ["DoG", "DoG", "CFG", "none", "autoguidance"])
        axes[1].set_xticks(range(len(config["targets"])), config["targets"], rotation=20)
        axes[2].set_xscale("log")
        for ax, label, title in zip(axes, ("guidance weight w", "", "fine-tuning steps", "Fréchet distance", f"steps of {config['step_table'][0][0]}"),
                                    ("Weight", f"Targets, w = {w:g}", "How long it was fine-tuned", "Which guide?", "Sampling steps"), strict=True):
            ax.set(xlabel=label, title=title, ylabel="Fréchet distance" if ax is axes[0] else "")
        axes[0].legend(fontsize=11), axes[1].legend(fontsize=11)
        fig.supxlabel(f"{config['size']} images a class; {len(record['seeds'])} seeds, 95% bootstrap intervals", fontsize=11)
    return fig
