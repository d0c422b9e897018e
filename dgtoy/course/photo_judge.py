"""The judge of photographs: samples are compared with true pictures that no fine-tune has seen, as a feature
network sees both."""

import dataclasses

import torch

from .. import metrics
from ..checkpoint import alone, read_safetensors, write_safetensors
from ..pipeline.extractors import extractor
from ..pipeline.finetune import Config
from ..pipeline.pictures import to_uint8
from ..samplers import dpmpp_2m
from . import cache
from .lab import Judge, Setting
from .worlds import photos


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoSetting(Setting):
    """A transfer problem on photographs: a target of `photos.TARGETS`, `size` pictures a class to learn from.

    domain: such a target; "source" asks for the pre-trained model itself. size: None is all of the training
    half. samples: for each seed, fewer where the target has fewer true pictures. features: the judge's
    network, of `extractors.EXTRACTORS`.
    """

    seeds: int = 2
    domain: str = "food"
    size: int | None = 100
    finetune: Config = Config(steps=1500, batch=64, lr=1e-4, ema=0.999)
    samples: int = 2000
    steps: int = 24
    sigma_min: float = 0.004
    sigma_max: float = 80.0
    features: str = "lite0"
    second: str = "patches"


class PhotoJudge(Judge):
    """Fréchet distance to all true pictures, the part of it that lies between the means, and the distance by
    a second network; precision, recall, density and coverage against as many true pictures as there are
    samples; the share of samples that a classifier reads as their label; the share of copies.

    The classifier, `Ridge`, learns from the whole training half of the target. `accuracy` is its share of
    true pictures read right; samples are scored by it where that is more than half the way from naming the
    most frequent class alone to naming all. A sample is a copy if it lies nearer to a picture that the
    fine-tune learnt from than 99% of true pictures do: of true pictures 0.01 are, by construction. `label`:
    what each sample should show, the classes in the proportions of the true pictures. folder: see
    `photos.read`.
    """

    metrics = (
        *("frechet", "frechet_means", "frechet_second"),
        *("precision", "recall", "density", "coverage", "class_accuracy", "copies"),
    )

    def __init__(self, setting, device="cpu", folder=None):
        super().__init__(setting, device)
        self.net, self.other = (extractor(f, device=device) for f in (setting.features, setting.second))
        name = setting.domain
        train, truth = photos.source(folder) if name == "source" else photos.target(name, folder)
        n = min(setting.samples, len(train), len(truth))  # true pictures can stand for samples: `floor`
        self.label = in_proportion(truth.label, n)
        self.train, self.truth = self.known(train, self.net), self.known(truth, self.net)  # features
        self.seen_otherwise = self.known(train, self.other)
        self.train_label = train.label
        self.classifier = Ridge(self.train, train.label)
        self.accuracy = (self.classifier(self.truth) == truth.label).float().mean().item()
        guess = truth.label.bincount().max().item() / len(truth)  # by naming the most frequent class alone
        if self.accuracy < (1 + guess) / 2:
            self.metrics = tuple(name for name in self.metrics if name != "class_accuracy")
        self.moments = metrics.moments(self.truth)
        self.other_moments = metrics.moments(self.known(truth, self.other))
        self.neighbours = self.truth[matched(self.label, truth.label, 0)]
        self.learnt_from(photos.first(train.label, setting.size))

    def learnt_from(self, rows):
        """Say which pictures of the training half a fine-tune saw; before, the first `size` of each class."""
        self.learnt = self.train[rows]
        self.near = torch.quantile(self.nearest(self.truth), 0.01)

    def start(self, seed):
        """Standard normal noise of a seed, (samples, 3, 64, 64), on the CPU."""
        generator = torch.Generator().manual_seed(500_000 + seed)
        return torch.randn(len(self.label), 3, 64, 64, generator=generator)

    def sample(self, method, seed=None, sampler=dpmpp_2m, steps=None, batch=500, **options):
        """Samples of a seed's network for the labels `label`, `batch` at a time.  -> (n, 3, 64, 64)"""
        found = []
        for label, noise in zip(self.label.split(batch), self.start(seed).split(batch), strict=True):
            D = method(label.to(self.device))
            found.append(self.flow(D, noise.to(self.device), sampler, steps, **options))
        return torch.cat(found)

    def score(self, x):
        """Each metric for images x (n, 3, 64, 64) in [-1, 1] of the labels `label`.  -> {metric: float}"""
        x = to_uint8(x)
        return self._scores(self.read(x, self.net), self.read(x, self.other))

    def floor(self, seeds=range(6)):
        """What a perfect model would score, for each seed: true pictures of the training half, in number and
        classes as samples are. Of the last two metrics, what true pictures score.  -> {metric: [floats]}"""
        drawn = [matched(self.label, self.train_label, seed) for seed in seeds]
        found = [self._scores(self.train[rows], self.seen_otherwise[rows]) for rows in drawn]
        of_truth = dict(class_accuracy=self.accuracy, copies=0.01)
        return {name: [of_truth.get(name, scores[name]) for scores in found] for name in self.metrics}

    def _scores(self, seen, otherwise):
        """Each metric from what the judge's network and the second one see."""
        real = self.neighbours[: len(seen)]
        read = self.classifier(seen) == self.label[: len(seen)]
        found = dict(
            frechet=metrics.frechet_distance(self.moments, seen).item(),
            frechet_means=(self.moments.mean - seen.double().mean(0)).square().sum().item(),
            frechet_second=metrics.frechet_distance(self.other_moments, otherwise).item(),
            class_accuracy=read.float().mean().item(),
            copies=(self.nearest(seen) < self.near).float().mean().item(),
            **metrics.prdc(real, seen),
        )
        return {name: round(found[name], 5) for name in self.metrics}

    def nearest(self, seen):
        """How far from features (n, D) the nearest picture lies that the fine-tune learnt from.  -> (n,)"""
        return torch.cat([torch.cdist(part, self.learnt).amin(1) for part in seen.split(1024)])

    @torch.no_grad()
    def read(self, x, net, batch=250):
        """What a feature network sees in pictures x (n, 3, H, W) uint8, on any device.  -> (n, D)"""
        return torch.cat([net(part.to(self.device)).float() for part in x.split(batch)])

    def known(self, data, net):
        """`read` of `Photos`, kept on disk."""
        inputs = (data.fingerprint, net.checksum, net.resize, str(self.device))
        path = cache.path("photos", inputs, (PhotoJudge,))
        with alone(path):
            if not path.exists():
                write_safetensors(path, dict(features=self.read(data.x, net)), {})
            return read_safetensors(path)[0]["features"].to(self.device)


class Ridge:
    """A linear classifier of features x (n, D) by labels (n,): least squares towards one-hot, its weights
    damped.

    W = (X^T X / n + strength m I)^-1 X^T Y / n, X the features with their means taken off, m their mean
    variance. Calling it on features (m, D) gives labels (m,), on the CPU.
    """

    def __init__(self, x, label, strength=1.0):
        x = x.double()
        self.mean = x.mean(0)
        x = x - self.mean
        y = torch.nn.functional.one_hot(label).to(x)
        self.offset = y.mean(0)
        cov = x.T @ x / len(x)
        damping = strength * cov.diagonal().mean() * torch.eye(len(cov), dtype=x.dtype, device=x.device)
        self.weight = torch.linalg.solve(cov + damping, x.T @ (y - self.offset) / len(x))  # (D, classes)

    def __call__(self, x):
        return ((x.double() - self.mean) @ self.weight + self.offset).argmax(-1).cpu()


def in_proportion(label, n):
    """n labels, the classes in the proportions of `label` (N,) and evenly mixed; 0, 1, 2, ... in turn where
    these are equal."""
    share = label.bincount() * n / len(label)
    counts = share.floor().long()
    for k in (share - counts).argsort(descending=True, stable=True)[: n - counts.sum()]:
        counts[k] += 1
    where = torch.cat([(torch.arange(count) + 0.5) / count for count in counts])  # in [0, 1], class by class
    return torch.arange(len(counts)).repeat_interleave(counts)[where.argsort(stable=True)]


def matched(label, known, seed):
    """Rows of pictures with labels `known` (N,) that show what `label` (n,) says, none twice, at random."""
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    rows = torch.empty_like(label)
    for k in label.unique():
        mine = order[known[order] == k]
        rows[label == k] = mine[: (label == k).sum()]
    return rows
