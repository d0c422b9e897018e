"""What guidance does to photographs on their way: the two terms of Domain Guidance over sigma, the log odds
of the domain, and how much each direction narrows. (C20; notebook 11)

A cell is a fine-tune that is shipped, and some of its classes. Methods start from the same noise. What a
guide adds to the change of a direction, its push, is by the law of `directions`.
"""

import dataclasses
import math
import time

import numpy as np
import torch
from matplotlib.ticker import FixedLocator, NullLocator
from scipy.special import digamma
from torch.nn.functional import cosine_similarity

from ... import shipped
from .. import cache, plot
from ..domain_classifier import domain_classifier
from ..lab import Presets
from ..records import record
from ..worlds import photos
from .directions import generalized, listed, narrowing, short, walk
from .panels import frame
from .panels import level as line
from .photos import widened

GUIDED = ("DoG", "CFG", "blurred self")  # blurred in proportion to the noise, for want of an early checkpoint


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """targets: fine-tunes of `base` that are shipped. pictures: of each class of `labels`, by each method at
    weight w; the first class also shows terms and odds.

    share: b / sigma of the blurred self. sigma_max, sigma_min, steps: levels, log-uniform. every: steps from
    one look at the terms to the next. levels, held_out: where true pictures, so many, show the terms.
    rank: directions. reference: pictures of the source behind their spread. classifier: its training steps.
    judged: true pictures, at most, behind a mean of log odds.
    """

    base: str = "photos64"
    targets: tuple = ("food", "art7")
    seeds: int = dataclasses.field(default=1, init=False)  # draws of noise
    labels: tuple = (0,)
    pictures: int = 4
    w: float = 2.0
    share: float = 0.3
    steps: int = 6
    sigma_max: float = 80.0
    sigma_min: float = 2.5
    every: int = 2
    levels: tuple = (4.0, 1.0)
    held_out: int = 4
    rank: int = 4
    reference: int = 40
    judged: int = 10
    classifier: int = 5

    @classmethod
    def full(cls):
        return cls(
            targets=("food", "vehicles", "insects", "art7"),
            labels=(0, 1, 2, 3),
            pictures=256,
            steps=120,
            sigma_min=0.01,
            every=8,
            levels=(30.0, 10.0, 4.0, 1.5, 0.6, 0.2),
            held_out=200,
            rank=12,
            reference=2000,
            classifier=300,
            judged=200,
        )

    @property
    def sigmas(self):
        return torch.logspace(math.log10(self.sigma_max), math.log10(self.sigma_min), self.steps + 1).double()


def run(config, device="cpu", progress=False):
    """The record: for each target the `terms` on true pictures and along DoG's path, the `odds`, and by
    method and direction the log std at the end and what accounts for it."""
    found, seconds = compute(config, device, progress=progress)
    return record("photos_why", config, dict(cells=list(found.values())), time.time() - seconds, device)


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return cache.cells(_cell, config, device, [(t,) for t in config.targets], part, progress)


def _cell(config, device, target):
    source, known = photos.source(), photos.target(target)
    pre = shipped.load(config.base, device)
    tuned = shipped.load(f"{config.base}-{target}", device)
    pre.amp = tuned.amp = False  # slopes at fine steps want float32
    found, first = [], None
    for label in config.labels:
        axes, ratio = _directions(config, source.train, known, label)
        paths = walks(config, pre, tuned, axes.float().to(device), label)
        first = first or paths
        ways = {name: narrowing(path, config.sigmas, config.w) for name, path in paths.items()}
        found.append((listed(ratio), listed(axes.norm(dim=0)), ways))
    ends = config.sigma_min, config.sigma_max
    classifier = domain_classifier(source.train, known.train, config.classifier, ends, device)
    ratios, lengths, ways = zip(*found, strict=True)
    return dict(
        target=target,
        on_truth=_on_truth(config, pre, tuned, known.truth),
        on_path=_on_path(config, pre, tuned, first["DoG"]["states"]),
        odds=_odds(config, classifier, source.truth, known.truth, first),
        ratio=sum(ratios, []),
        length=sum(lengths, []),
        directions={
            name: {key: sum((way[name][key] for way in ways), []) for key in ways[0][name]} for name in first
        },
    )


# the two terms


def terms(pre, tuned, x, sigma, label, x0=None):
    """Root mean squares of domain and class term, and the cosine between them, at x (n, C, H, W).

    x0, the pictures behind x, add the weights that would have hit them best by least squares: of DoG
    (`w_DoG`) and of CFG (`w_CFG`), w* = 1 + <x0 - D_c, T> / |T|^2 for the term T that the guide leaves.
    """
    null, guess = tuned.denoiser(tuned.null)(x, sigma), tuned.denoiser(label)(x, sigma)
    domain, by_class = null - pre.denoiser(pre.null)(x, sigma), guess - null
    angle = cosine_similarity(domain.flatten(1), by_class.flatten(1)).mean()
    found = dict(domain=domain.square().mean().sqrt(), by_class=by_class.square().mean().sqrt(), angle=angle)
    if x0 is not None:
        for name, term in (("w_DoG", domain + by_class), ("w_CFG", by_class)):
            found[name] = 1 + ((x0 - guess) * term).sum() / term.square().sum()
    return {name: short(value) for name, value in found.items()}


def _on_truth(config, pre, tuned, truth):
    """`terms` at each of config.levels, on true pictures that no fine-tune has seen, drawn at random."""
    g = torch.Generator().manual_seed(20)
    rows = torch.randperm(len(truth), generator=g)[: config.held_out]
    x0, label = _pictures(truth, rows, pre.device)
    eps = torch.randn(x0.shape, generator=g).to(x0)
    return [
        dict(sigma=sigma) | terms(pre, tuned, x0 + sigma * eps, torch.tensor(sigma), label, x0)
        for sigma in config.levels
    ]


def _on_path(config, pre, tuned, states):
    """`terms` at every config.every-th of the states of a path."""
    label = torch.full((config.pictures,), config.labels[0])
    at = range(0, config.steps, config.every)
    return [
        dict(sigma=short(config.sigmas[i])) | terms(pre, tuned, states[i], config.sigmas[i], label)
        for i in at
    ]


def _pictures(data, rows, device):
    """x0, label of pictures `rows`, none mirrored."""
    x0, label = data.draw(rows, torch.zeros(len(rows), dtype=torch.bool))
    return x0.to(device), label


# the way of each direction


def _directions(config, source, known, label):
    """Directions that a class is narrow in, of std 1 in the source, and its std along each.
    -> V (D, rank), r (rank,); see `directions.generalized`"""
    g = torch.Generator().manual_seed(21)
    rows = torch.randperm(len(source), generator=g)[: config.reference]
    broad = _pictures(source, rows, "cpu")[0]
    narrow = torch.cat([_pictures(part, _mine(part, label), "cpu")[0] for part in known])
    one_class = torch.zeros(len(narrow), dtype=torch.long)
    return generalized(broad.flatten(1).double(), narrow.flatten(1).double(), one_class, config.rank)


def _mine(data, label):
    """Which pictures are of a class.  -> rows (n,)"""
    return (data.label == label).nonzero()[:, 0]


def walks(config, pre, tuned, axes, label):
    """The path of no guidance and of each method in GUIDED from the same noise.  -> {method: `walk`}"""
    noise = torch.randn(config.pictures, *tuned.shape, generator=torch.Generator().manual_seed(22))
    x_T = config.sigma_max * noise.to(axes.device)
    main = tuned.denoiser(label)
    guides = {
        "none": main,
        "DoG": pre.denoiser(pre.null),
        "CFG": tuned.denoiser(tuned.null),
        "blurred self": widened(main, config.share),
    }
    return {
        name: walk(main, guide, 1.0 if name == "none" else config.w, x_T, config.sigmas, axes)
        for name, guide in guides.items()
    }


# the domain along the way


def _odds(config, classifier, source, target, paths):
    """Mean log odds of the target where each step begins: of each method's pictures, of true pictures of
    their class, and of the source's. `right`: the share of true pictures, half of each, told apart."""
    g = torch.Generator().manual_seed(24)
    mine, any_of_source = (
        _mine(target, config.labels[0])[: config.judged],
        torch.randperm(len(source), generator=g),
    )
    true = {
        "truth": _pictures(target, mine, "cpu")[0],
        "source": _pictures(source, any_of_source[: config.judged], "cpu")[0],
    }
    found = {name: [] for name in ("right", *true, *paths)}
    device = next(classifier.parameters()).device
    for i, sigma in enumerate(config.sigmas[:-1].float()):
        noised = {name: x0 + sigma * torch.randn(x0.shape, generator=g) for name, x0 in true.items()}
        noised |= {name: path["states"][i] for name, path in paths.items()}
        odds = {name: classifier(x.to(device), sigma) for name, x in noised.items()}
        for name, value in odds.items():
            found[name].append(short(value.mean()))
        shares = (odds["truth"] > 0).float().mean(), (odds["source"] < 0).float().mean()
        found["right"].append(short(sum(shares) / 2))
    return found


# what a record says


def by_target(record, look):
    """look(cell) for each fine-tune, as an array.  -> (targets, ...)"""
    return np.array([look(cell) for cell in record["results"]["cells"]])


def forecast(record):
    """The change of log std that the closed form foretells for DoG against no guidance, where the last step
    begins, from the class's own spread and the source's.  -> (targets, d)

    (w - 1) ln sqrt((r^2 + s^2) / (1 + s^2)), s the noise along the direction in units of the source's std,
    at the end less at the start.
    """
    sigmas = levels(record)[[-1, 0]]

    def of(cell):
        noise = np.outer(sigmas, cell["length"]) ** 2
        at_end, at_start = np.log((np.square(cell["ratio"]) + noise) / (1 + noise)) / 2
        return (record["config"]["w"] - 1) * (at_end - at_start)

    return by_target(record, of)


def levels(record):
    """The noise levels at which steps begin.  -> (steps,)"""
    high, low, steps = (record["config"][name] for name in ("sigma_max", "sigma_min", "steps"))
    return np.geomspace(high, low, steps + 1)[:-1]


def measured(record, method):
    """The change of log std against no guidance, where the last step begins.  -> (targets, d)"""
    std = lambda name: by_target(record, lambda cell: cell["directions"][name]["std"])
    return np.log(std(method) / std("none"))


def pushed(record, method):
    """The part of a method's change of log std that is its guide's push.  -> (targets, d)"""
    return by_target(record, lambda cell: cell["directions"][method]["push"])


def accounted(record, name):
    """`law` or `change` of every method.  -> (methods, targets, d)"""
    methods = ("none", *GUIDED)
    return np.array([by_target(record, lambda cell: cell["directions"][m][name]) for m in methods])


def breadth(record, method):
    """ln(std of a method's pictures / std of true ones at the same noise), the mean over directions.
    -> (targets,)

    Of n normal samples ln std is too low by [ln k - psi(k)] / 2 on average, k = (n - 1) / 2: that is added.
    """
    half = (record["config"]["pictures"] - 1) / 2
    few = (np.log(half) - digamma(half)) / 2

    def of(cell):
        true = np.hypot(cell["ratio"], levels(record)[-1] * np.array(cell["length"]))
        return np.log(cell["directions"][method]["std"] / true).mean() + few

    return by_target(record, of)


# figures


def _over_sigma(ax, sigmas, curves, ylabel):
    """Curves {label: (values (targets, levels), method of the colour)} over sigma, which falls."""
    for label, (values, method) in curves.items():
        plot.sweep(ax, sigmas, values.T, method, label)
    ax.set_ylabel(ylabel)
    _falling(ax)


def _falling(ax):
    """A legend, and sigma along the axis, falling from left to right."""
    ax.set(xscale="log", xlabel="noise level σ")
    ax.xaxis.set_major_locator(FixedLocator([50, 10, 2, 0.5, 0.1, 0.02]))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.invert_xaxis()
    ax.legend(fontsize=11)


def _terms(record, where, name):
    return by_target(record, lambda cell: [at[name] for at in cell[where]])


def sizes(ax, record):
    """Root mean squares of domain and class term along DoG's path."""
    curves = {
        "domain term": (_terms(record, "on_path", "domain"), "DoG"),
        "class term": (_terms(record, "on_path", "by_class"), "CFG"),
    }
    sigmas = [at["sigma"] for at in record["results"]["cells"][0]["on_path"]]
    _over_sigma(ax, sigmas, curves, "rms of the term")
    ax.set_ylim(0)


def best_weights(ax, record):
    """Weights that hit held-out pictures best, of DoG and of CFG."""
    curves = {name: (_terms(record, "on_truth", f"w_{name}"), name) for name in ("DoG", "CFG")}
    _over_sigma(ax, record["config"]["levels"], curves, "held-out weight w*")
    line(ax, 1)


def told_apart(record):
    """The targets of which the classifier tells 7 of 10 true pictures, in the end, from the source's."""
    return [cell["target"] for cell in record["results"]["cells"] if cell["odds"]["right"][-1] >= 0.7]


def alignment(ax, record):
    """Log odds of the domain along each method's path, and of true pictures at the same noise; the mean over
    targets that can be told apart."""
    known = np.isin(record["config"]["targets"], told_apart(record))
    if not known.any():
        ax.axis("off")
        return
    for method in ("truth", "none", *GUIDED):
        odds = by_target(record, lambda cell: cell["odds"][method])[known].mean(0)
        ax.plot(levels(record), odds, label=method, **plot.METHODS[method] | dict(marker=""))
    ax.set_ylabel("log odds of the domain")
    _falling(ax)


def _dots(ax, x, y, method):
    ax.plot(
        x.ravel(),
        y.ravel(),
        label=method,
        **plot.METHODS[method] | dict(linestyle="", alpha=0.6, markersize=4, zorder=2 + (method == "DoG")),
    )


def law(ax, record):
    """Change of log std by the law against the measured one: a dot for each direction, method and target."""
    for method, found, foretold in zip(
        ("none", *GUIDED), accounted(record, "change"), accounted(record, "law")
    ):
        _dots(ax, foretold, found, method)
    ax.axline((-3, -3), slope=1, color="black", linewidth=1)
    ax.set(xlabel="∫ (1 − β) d ln σ", ylabel="ln std, from start to end")
    ax.legend(fontsize=11)


def closed_form(ax, record):
    """Measured against foretold change of log std, a dot for each direction and target; the line is the
    closed form of DoG."""
    for method in GUIDED:
        _dots(ax, forecast(record), measured(record, method), method)
    ax.axline((0, 0), slope=1, color="black", linewidth=1)
    ax.set(xlabel="DoG's closed form, (w − 1) ln r", ylabel="ln std against no guidance")
    ax.locator_params(axis="x", nbins=5)
    ax.legend(fontsize=11)


def figure(record):
    """The terms, held-out weights, log odds on the way, the law and the closed form by direction."""
    titles = ["Two terms on DoG's path", "Does a term point to the truth?", "Is it of the domain?"]
    titles += ["What accounts for each direction", "What the closed form foretells"]
    n, w = len(record["results"]["cells"]), record["config"]["w"]
    foot = f"photographs, {n} fine-tunes, w = {w:g}; bands: 95% t intervals over fine-tunes; dots: directions"
    with frame([*titles, ""], (15, 8.4), foot, rows=2) as (fig, axes):
        for ax, panel in zip(axes, (sizes, best_weights, alignment, law, closed_form)):
            panel(ax, record)
        axes[5].axis("off")
    return fig
