"""What the experiments share: the networks of a setting, one judge for all methods, and records on disk."""

import dataclasses
import hashlib
import os
import pathlib

import torch
from tqdm import tqdm

import dgtoy

from .. import metrics
from ..nets import Ensemble
from ..samplers import heun, karras, last
from ..train import Recipe, fit
from .worlds import domains

METRICS = ("out_of_domain", "energy", "coverage", "class_error")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One transfer problem, how its networks are trained, and how they are sampled. Seeds run from 0."""

    seeds: int = 8
    domain: str = "moons"
    gap: float = 0.0
    breadth: float = 1.0
    classes: int = 2
    layout: int = 0
    size: int = 256  # target points a class
    width: int = 96
    pretrain: Recipe = Recipe(steps=4000)
    finetune: Recipe = Recipe(steps=2000)
    samples: int = 512  # a class and a seed
    steps: int = 32
    sigma_min: float = 0.005
    sigma_max: float = 20.0

    def but(self, **changes):
        """This setting with some fields changed; a field of the fine-tuning recipe goes in as finetune=dict(...)."""
        if isinstance(changes.get("finetune"), dict):
            changes["finetune"] = dataclasses.replace(self.finetune, **changes["finetune"])
        return dataclasses.replace(self, **changes)

    def world(self, device="cpu"):
        return domains.make(self.domain, self.gap, self.breadth, self.classes, self.layout).to(device)

    def sigmas(self, steps=None):
        return karras(steps or self.steps, self.sigma_min, self.sigma_max)


def pretrained(setting, device="cpu", progress=False):
    """The averaged weights of networks trained on the source, one a seed."""
    source = setting.world(device).source
    key = (setting.seeds, setting.breadth, setting.layout, setting.width, setting.pretrain)
    nets = Ensemble.of(range(setting.seeds), num_classes=source.num_classes, width=setting.width).to(device)
    return _trained("pretrain", key, nets, source, setting.pretrain, progress)


def finetuned(setting, device="cpu", progress=False):
    """The averaged weights of the pre-trained networks after fine-tuning on `size` points a class, one a seed."""
    start = pretrained(setting, device, progress)
    world = setting.world(device)
    seeds = [10_000 + s for s in start.seeds]  # other batches and noise than in pre-training
    nets = start.with_classes(world.target.num_classes, seeds)
    data = world.data(setting.size, range(setting.seeds), device)
    return _trained("finetune", setting.but(samples=0, steps=0), nets, data, setting.finetune, progress)


def _trained(what, key, nets, data, recipe, progress):
    """Train, or finish training, under a checkpoint named after everything that determines the result."""
    ema = nets.clone()
    sources = [
        pathlib.Path(dgtoy.__file__).with_name(f"{m}.py")
        for m in ("gmm", "course/worlds/domains", "samplers", "nets", "train", "checkpoint")
    ]
    text = repr(key) + torch.__version__ + nets.device.type + "".join(p.read_text() for p in sources)
    cache = pathlib.Path(os.environ.get("DGTOY_CACHE", pathlib.Path.home() / ".cache" / "dgtoy"))
    path = cache / f"{what}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
    steps = fit(nets, data, recipe, ema, checkpoint=path, every=2000)
    for _ in tqdm(steps, what, recipe.steps, leave=False, disable=not progress, mininterval=0.5):
        pass
    return ema


class Judge:
    """Samples a method from the noise that every method starts from, and scores it against the exact target."""

    def __init__(self, setting, device="cpu"):
        self.setting, self.device = setting, device
        self.target = setting.world(device).target
        self.parts = [self.target.given(c) for c in range(self.target.num_classes)]
        generator = torch.Generator(device).manual_seed(1)
        self.cuts = [metrics.threshold(p, generator=generator) for p in self.parts]
        self.truth = [p.sample(2 * setting.samples, generator=generator) for p in self.parts]

    def start(self, label):
        """Standard normal starting noise (S, n, 2): seed k's does not depend on the method or on the other seeds."""
        draws = [
            torch.Generator().manual_seed(500_000 + 1_000 * s + label) for s in range(self.setting.seeds)
        ]
        return torch.stack([torch.randn(self.setting.samples, 2, generator=g) for g in draws]).to(self.device)

    def sample(self, method, label, sampler=heun, steps=None, **options):
        """Samples (S, n, 2) of a class; method: label -> denoiser."""
        sigmas = self.setting.sigmas(steps)
        return last(sampler(method(label), sigmas[0].float() * self.start(label), sigmas, **options))

    def score(self, method, sampler=heun, steps=None, **options):
        """Each metric of METRICS for each seed, averaged over classes.  -> {metric: [S floats]}"""
        rows = []
        for c, part in enumerate(self.parts):
            x = self.sample(method, c, sampler, steps, **options)
            rows.append(
                torch.stack(
                    [
                        metrics.out_of_domain(x, part, self.cuts[c]),
                        metrics.energy_distance(x, self.truth[c]),
                        metrics.mode_coverage(x, part),
                        metrics.class_error(x, c, self.target),
                    ]
                )
            )
        mean = torch.stack(rows).mean(0).cpu()  # (metrics, S)
        return {name: [round(v, 6) for v in row.tolist()] for name, row in zip(METRICS, mean)}
