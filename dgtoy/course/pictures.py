"""The laboratory's world of glyphs: the transfer problems, their fine-tunes, one judge for all methods."""

import dataclasses

import torch

from .. import metrics, shipped
from ..samplers import dpmpp_2m
from ..train import Points, Recipe, fit
from .lab import Judge, Presets, Setting, replace
from .worlds import glyphs


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureSetting(Setting):
    """A transfer problem on pictures, see `glyphs.target`: its target lies inside the source or outside."""

    seeds: int = 6
    classes: int = 10
    narrow: float = 0.2
    gap: float = 0.0
    size: int = 100  # target images a class
    finetune: Recipe = Recipe(steps=1000, batch=128, lr=3e-4, P_mean=-1.0, P_std=1.4)
    samples: int = 1000  # for each seed, the classes in equal shares
    truth: int = 10_000  # images that samples are compared with
    steps: int = 20
    sigma_min: float = 0.01
    sigma_max: float = 80.0

    def world(self):
        """The target.  -> glyphs.World"""
        return glyphs.target(self.classes, self.narrow, self.gap, layout=self.layout)


QUICK = PictureSetting(
    seeds=2,
    size=20,
    samples=40,
    truth=1000,
    steps=10,
    finetune=replace(PictureSetting().finetune, steps=60, batch=32, lr=1e-3),
)
BROAD = PictureSetting(classes=62, size=20)


@dataclasses.dataclass(frozen=True)
class PictureConfig(Presets):
    """What configurations of experiments on pictures begin with."""

    setting: PictureSetting = QUICK


def replica(config, **smaller):
    """An experiment's configuration on another target and with other seeds, to see what
    of its findings stands again."""
    return replace(config, setting=dict(first=100, layout=1), **smaller)


def training_set(setting, seed, device="cpu"):
    """The small data set of a seed: `size` images a class. Its first images are those of a smaller set."""
    world = setting.world()
    generator = torch.Generator().manual_seed(9_000 + seed)
    x0, label = world.sample(setting.size * world.num_classes, generator=generator, device=device)
    return Points(x0[None], label[None])


def finetuned(setting, seed, device="cpu", at=(), guide=None):
    """The shipped model fine-tuned on the target.
    -> EDM of averaged weights; with `at`, {step: EDM} of those steps

    guide: see `fit`.
    """
    net = shipped.load("glyphs", device).with_classes(setting.world().num_classes, seed).compile()
    net.seeds = [10_000 + seed]  # other batches and noise than in pre-training
    ema, kept = net.clone(), {}
    for step in fit(net, training_set(setting, seed, device), setting.finetune, ema, guide=guide):
        if step.step in at:
            kept[step.step] = ema.clone()
    return kept if at else ema


def prepared(setting, device="cpu"):
    """What experiments on pictures start from: the judge, the shipped model."""
    return PictureJudge(setting, device), shipped.load("glyphs", device)


def course(setting, stages, seed, device="cpu"):
    """One fine-tune at several numbers of steps, and at a tenth of each, for autoguidance.  -> {step: EDM}"""
    steps = {*stages, *map(tenth, stages)}
    return finetuned(replace(setting, finetune=dict(steps=max(stages))), seed, device, at=steps)


def tenth(steps):
    """How long the weaker copy of a fine-tune was trained that guides it in autoguidance."""
    return max(1, steps // 10)


class PictureJudge(Judge):
    """The judge of pictures: samples are compared with fresh true images, as a feature network reads both.

    A style is foreign if some knob, as the network reads it, lies further from the middle of
    the true images' range than it does in 99% of them: true images score 0.01 by construction.
    `label`: what each sample should show.
    """

    metrics = ("frechet", "style_error", "class_error", "precision", "recall", "density", "coverage")

    def __init__(self, setting, device="cpu"):
        super().__init__(setting, device)
        self.world, self.net = setting.world(), shipped.load("features", device)
        self.own = torch.tensor([glyphs.GLYPHS.index(g) for g in self.world.glyphs], device=device)
        self.label = torch.arange(setting.samples, device=device) % self.world.num_classes
        self.truth = self.read(self.draw(setting.truth, 1))
        low, high = torch.quantile(self.truth.style, torch.tensor([0.005, 0.995], device=device), dim=0)
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        self.cut = torch.quantile(self._foreign(self.truth), 0.99)

    def draw(self, n, seed):
        """Fresh true images, none that a fine-tune has seen.  -> (n, 3, size, size)"""
        generator = torch.Generator().manual_seed(seed)
        return self.world.sample(n, generator=generator, device=self.device)[0]

    def start(self, seed):
        """Standard normal noise of a seed, (samples, 3, 32, 32), on every device the same."""
        generator = torch.Generator().manual_seed(500_000 + seed)
        return torch.randn(self.setting.samples, 3, 32, 32, generator=generator).to(self.device)

    def sample(self, method, seed=None, sampler=dpmpp_2m, steps=None, **options):
        """Samples of a seed's network for the labels `label`.  -> (n, 3, 32, 32)"""
        return self.flow(method(self.label), self.start(seed), sampler, steps, **options)

    def score(self, x):
        """Each metric for images x (n, 3, 32, 32) of the labels `label`.  -> {metric: float}"""
        seen, real = self.read(x), self.truth.features
        found = dict(
            frechet=metrics.frechet_distance(seen.features.cpu(), real.cpu()).item(),
            style_error=(self._foreign(seen) > self.cut).float().mean().item(),
            class_error=self.misread(seen, self.label[: len(x)]),
            **metrics.prdc(real[: len(x)], seen.features),
        )
        return {name: round(found[name], 5) for name in self.metrics}

    def floor(self, seeds=range(6)):
        """Truth against truth: what a perfect model would score, for each seed.  -> {metric: [floats]}"""
        found = [self.score(self.draw(self.setting.samples, 2_000 + s)) for s in seeds]
        return {name: [f[name] for f in found] for name in self.metrics}

    def read(self, x):
        """What the feature network sees in images.  -> Reading"""
        return self.net.read(x)

    def misread(self, seen, label):
        """The share of images in which another character of the world is read than their label's."""
        return (seen.glyph[:, self.own].argmax(-1) != label).float().mean().item()

    def _foreign(self, seen):
        """How far the most foreign knob lies from the middle of its true range, in half-widths.  -> (n,)"""
        return ((seen.style - self.middle) / self.half).abs().amax(-1)
