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
from .. import cache, plot
from ..lab import Presets
from ..records import record
from ..worlds import glyphs
from . import scale
from .directions import generalized, within
from .scale_setup import LatentJudge, codes, pretrained

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
    return record(
        "why",
        config,
        dict(cells=list(found.values()), ratio=_ratios(config, device)),
        time.time() - seconds,
        device,
    )


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return cache.cells(_cell, config, device, [(s,) for s in range(config.study.seeds)], part, progress)


def _cell(config, device, seed):
    study = config.study
    target = study.targets[0]
    judge, base = LatentJudge(study, target, device), pretrained(study, study.network, 0, device)
    kept = scale.tuned_at(study, base, judge, study.variants[0], seed, device)
    found = dict(
        stages=[
            dict(
                step=s,
                terms=terms(config, judge, base, kept[s], seed),
                errors=errors(config, judge, base, kept[s], seed),
            )
            for s in study.stages
        ]
    )
    last = kept[max(study.stages)]
    return found | _trajectories(config, judge, base, last, domain_classifier(config, judge, device), seed)


def _images(config, judge, seed, source=False):
    """Held-out images of the target or the source, and their labels."""
    g = torch.Generator().manual_seed(6_000 + seed)
    x0, label = (glyphs.World(size=64) if source else judge.world).sample(
        config.points, generator=g, device=judge.device
    )
    return codes(x0), label


def _noised(x0, sigma, seed):
    g = torch.Generator().manual_seed(seed)
    return x0 + sigma * torch.randn(x0.shape, generator=g).to(x0.device)


def terms(config, judge, base, tuned, seed):
    """Over sigma: rms of domain and class term, the cosine between them, and of each
    with what is missing, x0 - D_c.
    -> {name: [by level]}"""
    x0, label = _images(config, judge, seed)
    found = {k: [] for k in ("domain", "class", "angle", "domain_to_truth", "class_to_truth")}
    cosine = lambda a, b: nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).mean().item()
    for sigma in config.levels:
        x = _noised(x0, sigma, seed)
        pre, null, labelled = (
            base.denoiser(base.null)(x, sigma),
            tuned.denoiser(tuned.null)(x, sigma),
            tuned.denoiser(label)(x, sigma),
        )
        domain, by_class, missing = null - pre, labelled - null, x0 - labelled
        values = (
            domain.square().mean().sqrt().item(),
            by_class.square().mean().sqrt().item(),
            cosine(domain, by_class),
            cosine(domain, missing),
            cosine(by_class, missing),
        )
        for name, value in zip(found, values, strict=True):
            found[name].append(round(value, 5))
    return found


def errors(config, judge, base, tuned, seed):
    """Over sigma: mean squared error of the null branches before and after fine-tuning, on source and
    target, and of the labelled branch on the target."""
    found = {}
    for where in ("source", "target"):
        x0, label = _images(config, judge, seed, where == "source")
        branches = {
            "pre-trained null": base.denoiser(base.null),
            "fine-tuned null": tuned.denoiser(tuned.null),
        }
        if where == "target":
            branches["fine-tuned label"] = tuned.denoiser(label)
        for name, D in branches.items():
            found[f"{name}, {where}"] = [
                float(f"{(D(_noised(x0, s, seed), s) - x0).square().mean().item():.5g}")
                for s in config.levels
            ]
    return found


class DomainClassifier(nn.Module):
    """log p(target | x) - log p(source | x) of a noised latent, from x / sqrt(1 + sigma^2) and ln sigma."""

    def __init__(self, width=48):
        super().__init__()
        layers = [nn.Conv2d(5, width, 3, padding=1), nn.SiLU()]
        for _ in range(3):
            layers += [nn.Conv2d(width, width, 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 16, 1))

    def forward(self, x, sigma):
        """x (B, 4, 32, 32), sigma (B,) -> (B,)"""
        level = (sigma.log() / 4)[:, None, None, None].expand(-1, 1, *x.shape[2:])
        return self.layers(torch.cat([x / (1 + sigma**2).sqrt()[:, None, None, None], level], 1))[:, 0]


def domain_classifier(config, judge, device, batch=128):
    """A classifier of noised latents, trained on fresh images of source and target in equal shares, sigma
    log-uniform from 0.05 to 100."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DomainClassifier().to(device)
    optimizer, g, source = (
        torch.optim.Adam(net.parameters(), lr=1e-3),
        torch.Generator(device).manual_seed(11),
        glyphs.World(size=64),
    )
    for _ in range(config.classifier):
        halves = [codes(w.sample(batch // 2, generator=g, device=device)[0]) for w in (source, judge.world)]
        sigma = torch.exp(math.log(0.05) + math.log(2000) * torch.rand(batch, generator=g, device=device))
        x0, is_target = torch.cat(halves), torch.arange(batch, device=device) >= batch // 2
        x = x0 + sigma[:, None, None, None] * torch.randn(x0.shape, generator=g, device=device)
        loss = nn.functional.binary_cross_entropy_with_logits(net(x, sigma), is_target.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


def _trajectories(config, judge, base, tuned, classifier, seed):
    """Mean log-odds of the target along each method's trajectory, and the stds of its samples
    along the directions of truth."""
    guides = {
        "none": (tuned.denoiser(judge.label), 1.0),
        "CFG": (tuned.denoiser(tuned.null), 1.5),
        "DoG": (base.denoiser(base.null), 1.5),
        f"DoG, w = {W:g}": (base.denoiser(base.null), W),
    }
    sigmas, axes, odds, stds, sheets = sampling.levels(config.study.steps), _axes(judge), {}, {}, {}
    x_T = sampling.scaled(
        sampling.noise(sampling.Config(seed=seed), range(judge.setting.samples), tuned.shape)[0].to(
            judge.device
        ),
        sigmas,
    )
    for name, (guide, w) in guides.items():
        odds[name] = []
        for x, sigma in zip(
            dpmpp_2m(guided(tuned.denoiser(judge.label), guide, w), x_T, sigmas), sigmas[1:], strict=True
        ):
            level = max(sigma.item(), 0.05)  # the classifier's lowest; the last x is clean
            noised = x if sigma > 0.05 else _noised(x, 0.05, seed)
            odds[name].append(
                round(classifier(noised, torch.full((len(x),), level, device=x.device)).mean().item(), 4)
            )
        stds[name] = {
            view: [float(f"{v:.5g}") for v in within(z @ axes[view][0], judge.label.cpu())]
            for view, z in _views(judge, x).items()
        }
        sheets[name] = sheet(x[:12])
    return dict(odds=odds, stds=stds, sigmas=[round(s.item(), 5) for s in sigmas[1:]]) | (
        dict(sheets=sheets) if seed == 0 else {}
    )


def sheet(z):
    """Latents as one row of grey pictures, a PNG in base64, for a record to hold."""
    x = Unshuffle().decode(z).clamp(-1, 1)[:, 0]  # (n, 64, 64)
    held = io.BytesIO()
    Image.fromarray(((x + 1) * 127.5).round().byte().cpu().permute(1, 0, 2).flatten(1).numpy()).save(
        held, "PNG"
    )
    return base64.b64encode(held.getvalue()).decode()


def _views(judge, x):
    """Latents and features of the same images, (n, D) float64 on the CPU."""
    return dict(latents=x.flatten(1).double().cpu(), features=judge.read(x).features.double().cpu())


def _axes(judge):
    n = max(judge.setting.truth, 130)
    source = codes(
        glyphs.World(size=64).sample(n, generator=torch.Generator().manual_seed(3), device=judge.device)[0]
    )
    views = [_views(judge, x) for x in (source, judge.draw(n, 4))]
    return {
        k: generalized(views[0][k], views[1][k], torch.arange(n) % judge.world.num_classes) for k in views[0]
    }


def _ratios(config, device):
    judge = LatentJudge(config.study, config.study.targets[0], device)
    return {k: r.round(5).tolist() for k, (_, r) in _axes(judge).items()}


def sharpening(record, view):
    """Predicted (W - 1) log r and measured log(std DoG / std none) along each direction.  -> (d,), (S, d)"""
    measured = np.log(widths(record, f"DoG, w = {W:g}", view) / widths(record, "none", view))
    return (W - 1) * np.log(np.maximum(record["results"]["ratio"][view], 1e-3)), measured


def widths(record, method, view):
    """Std of a method's samples along each direction, in units of the source's; the
    truth's is the record's `ratio`.
    -> (S, d)"""
    return np.array([c["stds"][method][view] for c in record["results"]["cells"]])


def curve(record, kind, name, stage=-1):
    """One of a stage's `terms` or `errors`: a row of seeds for each noise level.  -> (levels, S)"""
    return np.array([c["stages"][stage][kind][name] for c in record["results"]["cells"]]).T


def sizes(ax, record, stage=-1):
    """Rms of the two terms over sigma."""
    for name, method, label in TERMS:
        plot.sweep(ax, record["config"]["levels"], curve(record, "terms", name, stage), method, label)
    ax.axhline(0, color="black", linewidth=1)
    ax.set(ylabel="rms of the term", title="Two terms over the noise")
    _over_sigma(ax)


def pointing(ax, record, stage=-1):
    """Cosine of each term with what is missing, and between the two."""
    levels = record["config"]["levels"]
    ax.axhline(0, color="black", linewidth=1)
    for name, method, label in TERMS:
        plot.sweep(
            ax, levels, curve(record, "terms", f"{name}_to_truth", stage), method, f"{label} and truth"
        )
    plot.sweep(ax, levels, curve(record, "terms", "angle", stage), "plane", "the two terms")
    ax.set(ylabel="cosine", title="Do they point to the truth?")
    _over_sigma(ax)


def forgotten(ax, record, stage=-1):
    """Error of the fine-tuned null branch over that of the pre-trained one, on the
    source and on the target."""
    ax.axhline(1, color="black", linewidth=1)
    for where, look in (("source", {}), ("target", dict(marker="o", linestyle=":"))):
        error = lambda branch: curve(record, "errors", f"{branch} null, {where}", stage)
        plot.sweep(
            ax,
            record["config"]["levels"],
            error("fine-tuned") / error("pre-trained"),
            "CFG",
            f"on the {where}",
            **look,
        )
    ax.set(ylabel="its error / pre-trained", title="What the null branch forgot")
    _over_sigma(ax)


def alignment(ax, record):
    """Log-odds of the target along the trajectories of none, CFG and DoG."""
    cells = record["results"]["cells"]
    for method in ("none", "CFG", "DoG"):
        name = method if method == "none" else f"{method}, w = 1.5"
        plot.sweep(
            ax,
            np.maximum(cells[0]["sigmas"], 0.05),
            np.array([c["odds"][method] for c in cells]).T,
            method,
            name,
        )
    ax.set(ylabel="log-odds of the target", title="Is it of the domain?")
    _over_sigma(ax)


def _over_sigma(ax):
    ax.set(xscale="log", xlabel="noise level σ")
    ax.legend(fontsize=11)


def by_direction(ax, record, view, **look):
    """Measured against predicted change of log std, a dot for each direction; the line is the closed form."""
    predicted, measured = sharpening(record, view)
    ax.plot(
        predicted,
        measured.mean(0),
        **dict(color=plot.METHODS["DoG"]["color"], marker="D", linestyle="", label=view, alpha=0.7) | look,
    )
    ax.axline((0, 0), slope=1, color="black", linewidth=1)
    ax.set(
        xlabel="predicted, (w − 1) log r",
        ylabel="measured change of log std",
        title=f"Which directions sharpen? w = {W:g}",
    )


def of_truth(ax, record, view="features"):
    """Widths of the samples of none and DoG against the truth's, a dot for each direction."""
    truth = np.maximum(record["results"]["ratio"][view], 1e-3)
    for name, method in (("none", "none"), (f"DoG, w = {W:g}", "DoG")):
        look = plot.METHODS[method]
        ax.plot(
            truth,
            widths(record, name, view).mean(0),
            look["marker"],
            color=look["color"],
            label=name,
            alpha=0.7,
        )
    ax.axline((1, 1), (2, 2), color="black", linewidth=1)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel=f"std of true images, {view}",
        ylabel="std of the samples",
        title="Broader than the truth",
    )
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
        steps = cells[0]["stages"][-1]["step"]
        fig.supxlabel(
            f"after {steps} steps of fine-tuning; {len(cells)} seeds, 95% bootstrap intervals "
            "(of two seeds: from one to the other)",
            fontsize=11,
        )
    return fig
