"""What the image experiments share: the transfer problems, their fine-tunes, one judge for all methods, cells that resume."""

import dataclasses
import hashlib
import json
import os
import pathlib
import time

import torch
from tqdm import tqdm

import dgtoy

from ... import metrics
from ... import shipped as weights
from ...checkpoint import write_text
from ...samplers import dpmpp_2m, karras, last
from ...train import Points, Recipe, fit
from ..worlds import glyphs

SOURCES = (
    "course/worlds/glyphs",
    "dit/network",
    "dit/denoisers",
    "train",
    "samplers",
    "guidance",
    "calibration",
    "interop/adapters",
    "interop/lora",
    "metrics",
    "course/worlds/features",
    "shipped/judge",
    "course/experiments/pictures",
)
METRICS = ("frechet", "style_error", "class_error", "precision", "recall", "density", "coverage")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One transfer problem on images: a target inside or outside the source, how it is fine-tuned and sampled."""

    seeds: int = 6
    first: int = 0  # the seeds are first, first + 1, ...
    layout: int = 0  # which target: see glyphs.target
    domain: str = "glyphs"  # or "handwriting"
    classes: int = 10
    narrow: float = 0.2
    gap: float = 0.0
    size: int = 100  # target images a class
    finetune: Recipe = Recipe(steps=1000, batch=128, lr=3e-4, P_mean=-1.0, P_std=1.4)
    samples: int = 1000  # for each seed, the classes in equal shares
    truth: int = 10_000
    steps: int = 20
    sigma_min: float = 0.01
    sigma_max: float = 80.0

    def but(self, **changes):
        """This setting with some fields changed; a field of the fine-tuning recipe goes in as finetune=dict(...)."""
        if isinstance(changes.get("finetune"), dict):
            changes["finetune"] = dataclasses.replace(self.finetune, **changes["finetune"])
        return dataclasses.replace(self, **changes)

    def world(self):
        """The target, as something with `sample`."""
        if self.domain == "handwriting":
            return Handwriting()
        return glyphs.target(self.classes, self.narrow, self.gap, layout=self.layout)

    def each_seed(self):
        return range(self.first, self.first + self.seeds)

    def sigmas(self, steps=None):
        return karras(steps or self.steps, self.sigma_min, self.sigma_max)


QUICK = Setting(seeds=2, size=20, samples=40, truth=1000, steps=10).but(
    finetune=dict(steps=60, batch=32, lr=1e-3)
)


def replica(config):
    """An experiment's configuration on another target and with other seeds, to see what of its findings stands again.

    The study at scale has several targets already; there the model is pre-trained anew.
    """
    if not hasattr(config, "setting"):
        return dataclasses.replace(config, first=100)
    return dataclasses.replace(config, setting=config.setting.but(first=100, layout=1))


class Handwriting:
    """scikit-learn's digits as a target: images to train on and others to compare with, never the same."""

    glyphs, num_classes = glyphs.GLYPHS[:10], 10

    def __init__(self):
        self.x0, self.label = glyphs.digits()

    def sample(self, n, label=None, generator=None, device="cpu", held_out=False):
        """n images, the classes in turn; drawn with replacement from the held-out half, or else the first `n` of the other half."""
        half = [torch.arange(len(self.x0))[(self.label == c)][held_out::2] for c in range(10)]
        label = torch.arange(n) % 10 if label is None else torch.as_tensor(label).expand(n)
        if held_out:
            u = torch.rand(n, generator=generator)
            rows = torch.stack([half[c][int(u[i] * len(half[c]))] for i, c in enumerate(label.tolist())])
        else:
            order = [h[torch.randperm(len(h), generator=generator)] for h in half]
            rows = torch.stack([order[c][i // 10] for i, c in enumerate(label.tolist())])
        return self.x0[rows].to(device), label.to(device)


def training_set(setting, seed, device="cpu"):
    """The small data set of a seed: `size` images a class. Its first images are those of a smaller set."""
    world = setting.world()
    x0, label = world.sample(
        setting.size * world.num_classes, generator=torch.Generator().manual_seed(9_000 + seed), device=device
    )
    return Points(x0[None], label[None])


def finetuned(setting, seed, device="cpu", progress=False, at=(), start=None, data=None, guide=None):
    """The shipped model fine-tuned on the target.  -> EDM of averaged weights; with `at`, {step: EDM} of those steps

    start: another network to begin with, made by the caller. data: another training set. guide: see `fit`.
    """
    data = data or training_set(setting, seed, device)
    net = start or weights.load("glyphs", device).with_classes(setting.world().num_classes, seed).compile()
    net.seeds = [10_000 + seed]  # other batches and noise than in pre-training
    ema, kept = net.clone(), {}
    steps = fit(net, data, setting.finetune, ema, guide=guide)
    for step in tqdm(
        steps, "fine-tune", setting.finetune.steps, leave=False, disable=not progress, mininterval=1
    ):
        if step.step in at:
            kept[step.step] = ema.clone()
    return kept if at else ema


class Judge:
    """Samples a method from the noise that every method starts from, and scores it against fresh true images.

    The reference images are drawn once. A style is foreign if some knob, as the feature network reads it, lies further
    from the middle of the true images' range than it does in 99% of them: true images score 0.01 by construction.
    """

    def __init__(self, setting, device="cpu"):
        self.setting, self.device, self.world = setting, device, setting.world()
        self.net = weights.load("features", device)
        self.own = torch.tensor([glyphs.GLYPHS.index(g) for g in self.world.glyphs], device=device)
        self.label = torch.arange(setting.samples, device=device) % self.world.num_classes
        self.truth = self._read(self.draw(setting.truth, 1))
        low, high = torch.quantile(self.truth.style, torch.tensor([0.005, 0.995], device=device), dim=0)
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        self.cut = torch.quantile(self._foreign(self.truth), 0.99)

    def draw(self, n, seed):
        """Fresh true images, none that a fine-tune has seen.  -> (n, 3, size, size)"""
        options = dict(held_out=True) if isinstance(self.world, Handwriting) else {}
        return self.world.sample(
            n, generator=torch.Generator().manual_seed(seed), device=self.device, **options
        )[0]

    def start(self, seed):
        """Standard normal starting noise of a seed, (samples, 3, size, size), on every device the same."""
        size = (self.setting.samples, 3, 32, 32)
        return torch.randn(size, generator=torch.Generator().manual_seed(500_000 + seed)).to(self.device)

    def sample(self, method, seed, sampler=dpmpp_2m, steps=None, **options):
        """Samples of a denoiser; its labels are `self.label`."""
        sigmas = self.setting.sigmas(steps)
        return last(sampler(method, sigmas[0].float() * self.start(seed), sigmas, **options))

    def score(self, x):
        """Each metric of METRICS for images x (n, 3, size, size) whose labels are `self.label`.  -> {metric: float}"""
        seen, real = self._read(x), self.truth.features
        style = (self._foreign(seen) > self.cut).float().mean().item()
        guess = seen.glyph[:, self.own].argmax(-1)
        found = dict(
            frechet=metrics.frechet_distance(seen.features.cpu(), real.cpu()).item(),
            style_error=style,
            class_error=(guess != self.label[: len(x)]).float().mean().item(),
            **metrics.prdc(real[: len(x)], seen.features),
        )
        return {name: round(found[name], 5) for name in METRICS}

    def floor(self, seeds=range(6)):
        """Truth against truth: what a perfect model would score, for each seed.  -> {metric: [floats]}"""
        found = [self.score(self.draw(self.setting.samples, 2_000 + s)) for s in seeds]
        return {name: [f[name] for f in found] for name in METRICS}

    def _foreign(self, seen):
        """How far the most foreign knob lies from the middle of its true range, in half-widths.  -> (n,)"""
        return ((seen.style - self.middle) / self.half).abs().amax(-1)

    def _read(self, x):
        """What the feature network sees.  -> shipped.judge.Reading"""
        return self.net.read(x)


def cache_folder():
    """Where trained networks and finished cells are kept; deleting it is always safe."""
    return pathlib.Path(os.environ.get("DGTOY_CACHE", pathlib.Path.home() / ".cache" / "dgtoy"))


def named(name, key, sources):
    """A file name for a result: `name` and a fingerprint of all that determines it, the source of these modules included."""
    texts = [(pathlib.Path(dgtoy.__file__).parent / f"{m}.py").read_bytes() for m in sources]
    return (
        f"{name}-{hashlib.sha256(repr((key, torch.__version__)).encode() + b''.join(texts)).hexdigest()[:16]}"
    )


def cells(name, work, keys, part=(0, 1), progress=False, sources=()):
    """work(key) for every key, each result kept on disk until its sources change: what was interrupted goes on.

    sources: modules that the work rests on beyond SOURCES. part: (i, n) does the i-th of n shares of the keys only, for several processes side by side.
    -> {key: result}, and the seconds that all of it took, whenever that was
    """
    found, seconds = {}, 0.0
    for key in tqdm(list(keys)[part[0] :: part[1]], name, disable=not progress, mininterval=5):
        path = cache_folder() / (
            named(name, key, (*SOURCES, *sources, f"course/experiments/{name}")) + ".json"
        )
        if not path.exists():
            started = time.time()
            result = work(key)
            write_text(path, json.dumps(dict(seconds=time.time() - started, result=result)))
        kept = json.loads(path.read_text())
        found[key], seconds = kept["result"], seconds + kept["seconds"]
    return found, seconds
