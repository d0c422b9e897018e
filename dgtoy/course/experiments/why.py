"""Why the pre-trained guide sharpens, at scale: the two terms of Domain Guidance over sigma,
what the null branch has forgotten, a domain classifier along the trajectories, and the closed
form direction by direction. (C20; notebook 11)

D_dog - D_ft = (w - 1) [(D_null - D_pre) + (D_c - D_null)]: a domain term and CFG's class term.
"""

import base64
import dataclasses
import io
import math
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import FixedLocator, NullLocator
from PIL import Image
from torch import nn

from ...guidance import guided
from ...pipeline import sample as sampling
from ...pipeline.latents import Unshuffle
from ...samplers import dpmpp_2m
from ...train import append_dims
from .. import cache, plot
from ..lab import Presets
from ..records import record
from . import scale
from .directions import generalized, within
from .scale_setup import SOURCE, LatentJudge, codes, pretrained

W = 2.0  # the weight at which directions are compared with the closed form
TERMS = (("domain", "DoG", "domain term"), ("class", "CFG", "class term"))  # name, colour of, label


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """study: whose models and target (the first) are looked at. levels: of sigma. points: images at each
    level. classifier: its training steps."""

    study: scale.Config = dataclasses.field(default_factory=scale.Config)
    levels: tuple = (20.0, 1.0)
    points: int = 40
    classifier: int = 10

    @property
    def seeds(self):
        return self.study.seeds

    @classmethod
    def full(cls):
        return cls(
            scale.Config.full(), (80.0, 40.0, 20.0, 10.0, 5.0, 2.5, 1.2, 0.6, 0.3, 0.15, 0.08), 496, 1500
        )


def run(config, device="cpu", progress=False):
    """By seed and stage: `terms` and `errors` over sigma; at the last stage `odds` along the sampler's
    steps, `stds` and (first seed) `sheets` of samples by method; `ratio`: the closed form's r."""
    found, seconds = compute(config, device, progress=progress)
    judge = LatentJudge(config.study, config.study.targets[0], device)
    ratio = {view: r.round(5).tolist() for view, (_, r) in _axes(judge).items()}
    results = dict(cells=list(found.values()), ratio=ratio)
    return record("why", config, results, time.time() - seconds, device)


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return cache.cells(_cell, config, device, [(s,) for s in range(config.seeds)], part, progress)


def _cell(config, device, seed):
    study = config.study
    judge, base = LatentJudge(study, study.targets[0], device), pretrained(study, study.network, 0, device)
    tuned = scale.tuned_at(study, base, judge, study.variants[0], seed)
    stages = [dict(step=s) | over_sigma(config, judge, base, tuned[s], seed) for s in study.stages]
    classifier = domain_classifier(config, judge)
    return dict(stages=stages) | _trajectories(judge, base, tuned[study.stages[-1]], classifier, seed)


def _images(config, judge, world, seed):
    """Held-out images of a world as latents, and their labels."""
    g = torch.Generator().manual_seed(6_000 + seed)
    x0, label = world.sample(config.points, generator=g, device=judge.device)
    return codes(x0), label


def _noised(x0, sigma, seed):
    g = torch.Generator().manual_seed(seed)
    return x0 + sigma * torch.randn(x0.shape, generator=g).to(x0.device)


def over_sigma(config, judge, base, tuned, seed):
    """`terms`: rms of domain and class term, the cosine between them, and of each with what is missing,
    x0 - D_c. `errors`: mean squared error of the null branches before and after fine-tuning, on source and
    target, and of the labelled branch on the target.  -> {kind: {name: [by level]}}"""
    (x0, label), (source, _) = (_images(config, judge, world, seed) for world in (judge.world, SOURCE))
    D_pre, D_null = (net.denoiser(net.null) for net in (base, tuned))
    D_c = tuned.denoiser(label)
    mse = lambda a, b: (a - b).square().mean()
    cosine = lambda a, b: nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).mean()
    terms, errors = {}, {}
    for sigma in config.levels:
        x, x_source = _noised(x0, sigma, seed), _noised(source, sigma, seed)
        pre, null, labelled = D_pre(x, sigma), D_null(x, sigma), D_c(x, sigma)
        domain, by_class, missing = null - pre, labelled - null, x0 - labelled
        for name, value in {
            "domain": mse(null, pre).sqrt(),
            "class": mse(labelled, null).sqrt(),
            "angle": cosine(domain, by_class),
            "domain_to_truth": cosine(domain, missing),
            "class_to_truth": cosine(by_class, missing),
        }.items():
            terms.setdefault(name, []).append(round(value.item(), 5))
        for name, value in {
            "pre-trained null, source": mse(D_pre(x_source, sigma), source),
            "fine-tuned null, source": mse(D_null(x_source, sigma), source),
            "pre-trained null, target": mse(pre, x0),
            "fine-tuned null, target": mse(null, x0),
            "fine-tuned label, target": mse(labelled, x0),
        }.items():
            errors.setdefault(name, []).append(_short(value))
    return dict(terms=terms, errors=errors)


def _short(value):
    """A number to five digits."""
    return float(f"{value:.5g}")


class DomainClassifier(nn.Module):
    """log p(target | x) - log p(source | x) of a noised latent, from x / sqrt(1 + sigma^2) and ln sigma."""

    def __init__(self, width=48):
        super().__init__()
        layers = [nn.Conv2d(5, width, 3, padding=1), nn.SiLU()]
        for _ in range(3):
            layers += [nn.Conv2d(width, width, 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 16, 1))

    def forward(self, x, sigma):
        """x (B, 4, 32, 32), sigma () or (B,) -> (B,)"""
        sigma = append_dims(sigma.float().expand(len(x)), x)
        level = (sigma.log() / 4).expand_as(x[:, :1])
        return self.layers(torch.cat([x / (1 + sigma**2).sqrt(), level], 1))[:, 0]


def domain_classifier(config, judge, batch=128):
    """A classifier of noised latents, trained on fresh images of source and target in equal shares, sigma
    log-uniform from 0.05 to 100."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DomainClassifier().to(judge.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    random = dict(generator=torch.Generator(judge.device).manual_seed(11), device=judge.device)
    is_target = torch.arange(batch, device=judge.device) >= batch // 2
    for _ in range(config.classifier):
        x0 = torch.cat([codes(w.sample(batch // 2, **random)[0]) for w in (SOURCE, judge.world)])
        sigma = torch.exp(math.log(0.05) + math.log(2000) * torch.rand(batch, **random))
        x = x0 + append_dims(sigma, x0) * torch.randn(x0.shape, **random)
        loss = nn.functional.binary_cross_entropy_with_logits(net(x, sigma), is_target.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


def _trajectories(judge, base, tuned, classifier, seed):
    """Mean log-odds of the target along each method's trajectory, and the stds of its samples
    along the directions of truth."""
    main, null, pre = (tuned.denoiser(judge.label), tuned.denoiser(tuned.null), base.denoiser(base.null))
    methods = {
        "none": main,
        "CFG": guided(main, null, scale.W),
        "DoG": guided(main, pre, scale.W),
        f"DoG, w = {W:g}": guided(main, pre, W),
    }
    sigmas, axes = sampling.levels(judge.setting.steps), _axes(judge)
    x_T = sampling.scaled(judge.start(seed), sigmas)
    odds, stds, sheets = {}, {}, {}
    for name, D in methods.items():
        odds[name] = []
        for x, sigma in zip(dpmpp_2m(D, x_T, sigmas), sigmas[1:], strict=True):
            noised = x if sigma > 0.05 else _noised(x, 0.05, seed)  # the classifier's lowest level
            odds[name].append(round(classifier(noised, sigma.clamp(min=0.05)).mean().item(), 4))
        spread = {view: within(z @ axes[view][0], judge.label.cpu()) for view, z in _views(judge, x).items()}
        stds[name] = {view: [_short(v) for v in std] for view, std in spread.items()}
        sheets[name] = sheet(x[:12])
    found = dict(odds=odds, stds=stds, sigmas=[round(s.item(), 5) for s in sigmas[1:]])
    return found | (dict(sheets=sheets) if seed == 0 else {})


def sheet(z):
    """Latents as one row of grey pictures, a PNG in base64, for a record to hold."""
    x = Unshuffle().decode(z).clamp(-1, 1)[:, 0]  # (n, 64, 64)
    row = ((x + 1) * 127.5).round().byte().cpu().permute(1, 0, 2).flatten(1)
    held = io.BytesIO()
    Image.fromarray(row.numpy()).save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()


def _views(judge, x):
    """Latents and features of the same images, (n, D) float64 on the CPU."""
    return dict(latents=x.flatten(1).double().cpu(), features=judge.read(x).features.double().cpu())


def _axes(judge):
    """By view: directions that the target is narrow in, and the closed form's r along each."""
    n, g = judge.setting.truth, torch.Generator().manual_seed(3)
    source = _views(judge, codes(SOURCE.sample(n, generator=g, device=judge.device)[0]))
    target = _views(judge, judge.draw(n, 4))
    label = torch.arange(n) % judge.world.num_classes
    return {view: generalized(source[view], target[view], label) for view in source}


def sharpening(record, view):
    """Predicted (W - 1) log r and measured log(std DoG / std none) along each direction.  -> (d,), (S, d)"""
    measured = np.log(widths(record, f"DoG, w = {W:g}", view) / widths(record, "none", view))
    return (W - 1) * np.log(record["results"]["ratio"][view]), measured


def widths(record, method, view):
    """Std of a method's samples along each direction, in units of the source's; the
    truth's is the record's `ratio`.
    -> (S, d)"""
    return np.array([c["stds"][method][view] for c in record["results"]["cells"]])


def curve(record, kind, name, stage=-1):
    """One of a stage's `terms` or `errors`: a row of seeds for each noise level.  -> (levels, S)"""
    return np.array([c["stages"][stage][kind][name] for c in record["results"]["cells"]]).T


def _over_sigma(ax, sigmas, curves, ylabel, title, level=None):
    """Curves {label: (values (levels, S), method of the colour)} over sigma, and a line at `level`."""
    for label, (values, method) in curves.items():
        plot.sweep(ax, sigmas, values, method, label)
    if level is not None:
        ax.axhline(level, color="black", linewidth=1, zorder=1)
    ax.set(xscale="log", xlabel="noise level σ", ylabel=ylabel, title=title)
    ax.legend(fontsize=11)


def sizes(ax, record, stage=-1):
    """Rms of the two terms over sigma."""
    curves = {label: (curve(record, "terms", name, stage), method) for name, method, label in TERMS}
    _over_sigma(ax, record["config"]["levels"], curves, "rms of the term", "Two terms over the noise", 0)


def pointing(ax, record, stage=-1):
    """Cosine of each term with what is missing, and between the two."""
    cosine = lambda name: curve(record, "terms", name, stage)
    curves = {f"{label} and truth": (cosine(f"{name}_to_truth"), method) for name, method, label in TERMS}
    curves["the two terms"] = cosine("angle"), "plane"
    _over_sigma(ax, record["config"]["levels"], curves, "cosine", "Do they point to the truth?", 0)


def forgotten(ax, record, stage=-1):
    """Error of the fine-tuned null branch over that of the pre-trained one, on the
    source and on the target."""
    error = lambda branch: curve(record, "errors", branch, stage)
    for where, look in (("source", {}), ("target", dict(marker="o", linestyle=":"))):
        ratio = error(f"fine-tuned null, {where}") / error(f"pre-trained null, {where}")
        plot.sweep(ax, record["config"]["levels"], ratio, "CFG", f"on the {where}", **look)
    _over_sigma(ax, [], {}, "its error / pre-trained", "What the null branch forgot", 1)


def alignment(ax, record):
    """Log-odds of the target along the trajectories of none, CFG and DoG."""
    cells = record["results"]["cells"]
    odds = lambda method: np.array([c["odds"][method] for c in cells]).T  # (steps, S)
    names = {"none": "none", f"CFG, w = {scale.W:g}": "CFG", f"DoG, w = {scale.W:g}": "DoG"}
    curves = {label: (odds(method), method) for label, method in names.items()}
    sigmas = np.maximum(cells[0]["sigmas"], 0.05)
    _over_sigma(ax, sigmas, curves, "log-odds of the target", "Is it of the domain?")


DOTS = dict(linestyle="", alpha=0.7)  # one for each direction


def by_direction(ax, record, view, **look):
    """Measured against predicted change of log std, a dot for each direction; the line is the closed form."""
    predicted, measured = sharpening(record, view)
    ax.plot(predicted, measured.mean(0), label=view, **plot.METHODS["DoG"] | DOTS | look)
    ax.axline((0, 0), slope=1, color="black", linewidth=1)
    ax.set(xlabel="predicted, (w − 1) log r", ylabel="measured change of log std")
    ax.set_title(f"Which directions sharpen? w = {W:g}")


def of_truth(ax, record):
    """Widths of the samples of none and DoG against the truth's in features, a dot for each direction."""
    truth = record["results"]["ratio"]["features"]
    for name, method in (("none", "none"), (f"DoG, w = {W:g}", "DoG")):
        ax.plot(truth, widths(record, name, "features").mean(0), label=name, **plot.METHODS[method] | DOTS)
    ax.axline((1, 1), (2, 2), color="black", linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="std of true images, features", ylabel="std of the samples")
    ax.set_title("Broader than the truth")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2]))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def figure(record):
    """The two terms and where they point, what was forgotten, log-odds along the trajectories, the closed
    form by direction, widths."""
    cells = record["results"]["cells"]
    with plot.style():
        fig, axes = plt.subplots(2, 3, figsize=(15, 8.4))
        for ax, panel in zip(axes.flat, (sizes, pointing, forgotten, alignment), strict=False):
            panel(ax, record)
        by_direction(axes[1, 1], record, "features")
        by_direction(axes[1, 1], record, "latents", marker="^", fillstyle="none")
        of_truth(axes[1, 2], record)
        for ax in axes[1, 1:]:
            ax.legend(fontsize=11)
        fig.supxlabel(
            f"after {cells[0]['stages'][-1]['step']} steps of fine-tuning; {len(cells)} seeds, 95% t "
            "intervals (of two seeds: from one to the other)",
            fontsize=11,
        )
    return fig
