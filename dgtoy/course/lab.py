"""The laboratory: a setting says which transfer problem is studied, a judge samples methods
there and scores the samples.

The contract of both is here, with the world of points; `pictures` has that of glyphs, `photo_judge` that of
photographs. A method is a function label -> denoiser.
"""

import dataclasses
import math

import torch
from tqdm import tqdm

from .. import metrics
from ..checkpoint import alone
from ..guidance import autoguidance, blurred, cfg, domain_guidance, guided
from ..nets import Ensemble
from ..samplers import heun, karras, last
from ..train import Recipe, fit
from . import cache
from .worlds import domains


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A transfer problem: the seeds first, first + 1, ..., which target, how
    models are fine-tuned and sampled."""

    seeds: int
    first: int = 0
    layout: int | None = 0  # which source of points (None: seed s has its own, s), which target of pictures
    finetune: Recipe
    samples: int
    steps: int
    sigma_min: float
    sigma_max: float

    def each_seed(self):
        return range(self.first, self.first + self.seeds)

    def sigmas(self, steps=None):
        return karras(steps or self.steps, self.sigma_min, self.sigma_max)


class Judge:
    """Samples methods from the noise that every method starts from, and scores samples against the truth.

    Each kind of world has its own: `metrics`, their names; `sample(method, seed=None, sampler, steps,
    **options)`, samples of all labels; `score(samples)` -> {metric: a number, or one for each seed}. seed: of
    a network alone; an ensemble holds all.
    """

    def __init__(self, setting, device="cpu"):
        self.setting, self.device = setting, device

    def flow(self, D, noise, sampler, steps=None, **options):
        """Where a denoiser takes standard normal noise."""
        sigmas = self.setting.sigmas(steps)
        return last(sampler(D, sigmas[0].float() * noise, sigmas, **options))

    def judged(self, method, seed=None, **options):
        """The scores of a method's samples."""
        return self.score(self.sample(method, seed, **options))


class Presets:
    """quick(): minutes on a CPU. An experiment adds full(), for a GPU, and most add replica():
    another target or other seeds."""

    @classmethod
    def quick(cls):
        return cls()


def replace(config, **changes):
    """A dataclass with some fields changed. A dict given for a field that is a
    dataclass changes fields of that."""
    for name, value in changes.items():
        if isinstance(value, dict) and dataclasses.is_dataclass(getattr(config, name)):
            changes[name] = replace(getattr(config, name), **value)
    return dataclasses.replace(config, **changes)


ON_AN_INTERVAL = " on an interval"
ALWAYS = ("CFG", "DoG", "autoguidance", "blurred self")
ON_INTERVALS = tuple(name + ON_AN_INTERVAL for name in ALWAYS)
FIELD = (*ALWAYS, *ON_INTERVALS)  # whom every comparison has


def methods(finetuned, pretrained, weights, names=("none", "CFG", "DoG"), interval=None, weaker=None, b=None):
    """The methods of these names at every weight, "none" once: (name, w, label -> denoiser).

    interval: of names that end in "on an interval". weaker: the guide of "autoguidance". b: the width of the
    "blurred self".
    """
    if "none" in names:
        yield "none", 1.0, finetuned.denoiser
    always = (0.0, math.inf)
    for w in weights:
        for name in names:
            if name != "none":
                method = name.removesuffix(ON_AN_INTERVAL)
                where = always if method == name else interval
                yield name, w, _guided(method, finetuned, pretrained, w, where, weaker, b)


def _guided(method, finetuned, pretrained, w, interval, weaker, b):
    """One guided method of `methods`: label -> denoiser."""

    def denoiser(y):
        main = finetuned.denoiser(y)
        if method == "CFG":
            return cfg(finetuned, y, finetuned.null, w, interval)
        if method == "DoG":
            return domain_guidance(main, pretrained.denoiser(pretrained.null), w, interval)
        if method == "autoguidance":
            return autoguidance(main, weaker.denoiser(y), w, interval)
        if method == "blurred self":
            return guided(main, blurred(main, b), w, interval)
        raise ValueError(f"method is {method!r}; expected CFG, DoG, autoguidance or blurred self")

    return denoiser


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointSetting(Setting):
    """A transfer problem in the plane, see `domains.make`; one network for each
    seed, all trained together."""

    seeds: int = 8
    domain: str = "moons"
    gap: float = 0.0
    breadth: float = 1.0
    classes: int = 2
    size: int = 256  # target points a class
    width: int = 96
    pretrain: Recipe = Recipe(steps=4000)
    finetune: Recipe = Recipe(steps=2000)
    samples: int = 512  # a class and a seed
    steps: int = 32
    sigma_min: float = 0.005
    sigma_max: float = 20.0

    def world(self, device="cpu", seed=0):
        """The transfer problem of a seed: all have one target, and one source unless `layout` is None."""
        layout = seed if self.layout is None else self.layout
        return domains.make(self.domain, self.gap, self.breadth, self.classes, layout).to(device)

    def source(self, device="cpu"):
        """What the networks of all seeds are pre-trained on, and its exact denoiser."""
        if self.layout is not None:
            return self.world(device).source
        return domains.PerSeed([self.world(device, seed).source for seed in self.each_seed()])


def on_own_sources(**changes):
    """Eight seeds, each on a source of its own, fine-tuned until held-out data ask for no guidance: the
    finished networks of experiment `nulls`."""
    setting = PointSetting(seeds=8, layout=None, samples=256, finetune=Recipe(steps=5000))
    return replace(setting, **changes)


# of replicas: another target, seeds and sources that no other record has
ON_OTHER_SOURCES = on_own_sources(first=16, domain="spirals")


@dataclasses.dataclass(frozen=True)
class PointConfig(Presets):
    """Presets of experiments on points, each seed on a source of its own, repeated on another target."""

    setting: PointSetting = on_own_sources()

    @classmethod
    def replica(cls):
        return cls(ON_OTHER_SOURCES)


def weaker_self(setting, device="cpu", progress=False):
    """The guide of autoguidance: the same fine-tune after a tenth of its steps."""
    steps = max(1, setting.finetune.steps // 10)
    return finetuned(replace(setting, finetune=dict(steps=steps)), device, progress)


def pretrained(setting, device="cpu", progress=False, seeds=None):
    """The averaged weights of networks trained on the source, one for each seed.

    seeds: others than the setting's, as many, for other networks on the same sources.
    """
    source, seeds = setting.source(device), seeds or setting.each_seed()
    nets = Ensemble.of(seeds, num_classes=source.num_classes, width=setting.width).to(device)
    return trained("pretrain", nets, source, setting.pretrain, progress)


def finetuned(setting, device="cpu", progress=False):
    """The averaged weights of the pre-trained networks after fine-tuning on `size` points a
    class, one for each seed."""
    start = pretrained(setting, device, progress)
    world = setting.world(device)
    seeds = [10_000 + s for s in start.seeds]  # other batches and noise than in pre-training
    nets = start.with_classes(world.target.num_classes, seeds)
    data = world.data(setting.size, setting.each_seed(), device)
    return trained("finetune", nets, data, setting.finetune, progress)


def prepared(setting, device="cpu", progress=False):
    """What experiments on points start from: pre-trained networks, fine-tuned ones, the judge."""
    networks = [make(setting, device, progress) for make in (pretrained, finetuned)]
    return *networks, PointJudge(setting, device)


def scores(setting, weights, device="cpu", progress=False, **options):
    """A row for each of the `methods` with these options: method, w and each metric by seed."""
    pre, ft, judge = prepared(setting, device, progress)
    if any(name.startswith("autoguidance") for name in options.get("names", ())):
        options["weaker"] = weaker_self(setting, device, progress)
    return [dict(method=name, w=w, **judge.judged(D)) for name, w, D in methods(ft, pre, weights, **options)]


def trained(name, net, data, recipe, progress=False):
    """The averaged weights of `net` after `fit`, from the cache where they are; a run that was
    interrupted goes on there, and of two processes that need them one trains, the other waits."""
    inputs = (net.config, net.seeds, net.params, data, recipe, net.device.type)
    ema, path = net.clone(), cache.path(name, inputs, (fit, type(net), type(data)))
    with cache.writing(), alone(path):
        cache.drop_damaged(path)
        steps = fit(net, data, recipe, ema, checkpoint=path, every=2000)
        for _ in tqdm(steps, name, recipe.steps, leave=False, disable=not progress, mininterval=0.5):
            pass
    return ema


class PointJudge(Judge):
    """The judge of points: the target's density is known. Each seed's samples start from that seed's
    noise, whatever the others."""

    metrics = ("out_of_domain", "energy", "coverage", "thickness", "class_error")

    def __init__(self, setting, device="cpu"):
        super().__init__(setting, device)
        self.target = setting.world(device).target
        self.parts = [self.target.given(c) for c in range(self.target.num_classes)]
        generator = torch.Generator(device).manual_seed(1)
        self.cuts = [metrics.threshold(p, generator=generator) for p in self.parts]
        self.truth = [p.sample(2 * setting.samples, generator=generator) for p in self.parts]

    def start(self, label):
        """Standard normal noise of every seed for a class, (S, n, 2)."""
        seeds = [500_000 + 1_000 * s + label for s in self.setting.each_seed()]
        draws = [
            torch.randn(self.setting.samples, 2, generator=torch.Generator().manual_seed(s)) for s in seeds
        ]
        return torch.stack(draws).to(self.device)

    def sample(self, method, seed=None, sampler=heun, steps=None, **options):
        """Samples of every class and seed.  -> (classes, S, n, 2)"""
        classes = range(len(self.parts))
        return torch.stack([self.flow(method(c), self.start(c), sampler, steps, **options) for c in classes])

    def score(self, x):
        """Each metric for each seed, averaged over classes.  x (classes, S, n, 2) -> {metric: [S floats]}"""
        found = [
            [
                metrics.out_of_domain(x[c], part, self.cuts[c]),
                metrics.energy_distance(x[c], self.truth[c]),
                metrics.mode_coverage(x[c], part),
                metrics.thickness(x[c], part, self.truth[c]),
                metrics.class_error(x[c], c, self.target),
            ]
            for c, part in enumerate(self.parts)
        ]
        mean = torch.stack([torch.stack(row) for row in found]).mean(0).cpu()  # (metrics, S)
        return {name: [round(v, 6) for v in row.tolist()] for name, row in zip(self.metrics, mean)}
