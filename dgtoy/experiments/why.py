"""Why the pre-trained guide sharpens, at scale: the two terms of Domain Guidance over sigma, what the null branch has forgotten,
a domain classifier along the trajectories, and the closed form direction by direction. (C20; notebook 11)

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
from PIL import Image
from torch import nn

from .. import glyphs, plot
from ..guidance import guided
from ..latents import Unshuffle
from ..pipeline import sample as sampling
from ..samplers import dpmpp_2m
from . import pictures, scale
from .base import record
from .directions import generalized, within
from .scale_setup import Judge, codes, pretrained

W = 2.0                                                    # the weight at which directions are compared with the closed form


@dataclasses.dataclass(frozen=True)
class Config:
    """study: whose models and target (the first) are looked at. levels: of sigma. points: images at each level. classifier: its training steps."""

    study: scale.Config = dataclasses.field(default_factory=scale.Config)
    levels: tuple = (20.0, 1.0)
    points: int = 40
    classifier: int = 10

    @property
    def seeds(self):
        return self.study.seeds

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(scale.Config.full(), (80.0, 40.0, 20.0, 10.0, 5.0, 2.5, 1.2, 0.6, 0.3, 0.15, 0.08), 496, 1500)


def run(config, device="cpu", progress=False):
    """By seed and stage: `terms` and `errors` over sigma; at the last stage `odds` along the sampler's steps, `stds` and (first seed) `sheets` of samples by method; `ratio`: the closed form's r."""
    found, seconds = compute(config, device, progress=progress)
    return record("why", config, dict(cells=list(found.values()), ratio=_ratios(config, device)), time.time() - seconds, device)


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    same = dataclasses.replace(config, study=dataclasses.replace(config.study, seeds=0))
    keys = [(repr(same), device, s) for s in range(config.study.seeds)]
    return pictures.cells("why", lambda key: _cell(config, device, key[2]), keys, part, progress, (*scale.SOURCES, "experiments/scale", "experiments/directions"))


def _cell(config, device, seed):
    study = config.study
    target = study.targets[0]
    judge, base = Judge(study, target, device), pretrained(study, study.network, 0, device)
    kept = scale.tuned_at(study, base, judge, study.variants[0], seed, device)
    found = dict(stages=[dict(step=s, terms=terms(config, judge, base, kept[s], seed), errors=errors(config, judge, base, kept[s], seed)) for s in study.stages])
    last = kept[max(study.stages)]
    return found | _trajectories(config, judge, base, last, domain_classifier(config, judge, device), seed)


def _images(config, judge, seed, source=False):
    """Held-out images of the target or the source, and their labels."""
    g = torch.Generator().manual_seed(6_000 + seed)
    x0, label = (glyphs.World(size=64) if source else judge.world).sample(config.points, generator=g, device=judge.device)
    return codes(x0), label


def _noised(x0, sigma, seed):
    g = torch.Generator().manual_seed(seed)
    return x0 + sigma * torch.randn(x0.shape, generator=g).to(x0.device)


def terms(config, judge, base, tuned, seed):
    """Over sigma: rms of domain and class term, the cosine between them, and of each with what is missing, x0 - D_c.  -> {name: [by level]}"""
    x0, label = _images(config, judge, seed)
    found = {k: [] for k in ("domain", "class", "angle", "domain_to_truth", "class_to_truth")}
    cosine = lambda a, b: nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).mean().item()
    for sigma in config.levels:
        x = _noised(x0, sigma, seed)
        pre, null, labelled = base.denoiser(base.null)(x, sigma), tuned.denoiser(tuned.null)(x, sigma), tuned.denoiser(label)(x, sigma)
        domain, by_class, missing = null - pre, labelled - null, x0 - labelled
        values = (domain.square().mean().sqrt().item(), by_class.square().mean().sqrt().item(), cosine(domain, by_class), cosine(domain, missing), cosine(by_class, missing))
        for name, value in zip(found, values, strict=True):
            found[name].append(round(value, 5))
    return found


def errors(config, judge, base, tuned, seed):
    """Over sigma: mean squared error of the null branches before and after fine-tuning, on source and target, and of the labelled branch on the target."""
    found = {}
    for where in ("source", "target"):
        x0, label = _images(config, judge, seed, where == "source")
        branches = {"pre-trained null": base.denoiser(base.null), "fine-tuned null": tuned.denoiser(tuned.null)}
        if where == "target":
            branches["fine-tuned label"] = tuned.denoiser(label)
        for name, D in branches.items():
            found[f"{name}, {where}"] = [float(f"{(D(_noised(x0, s, seed), s) - x0).square().mean().item():.5g}") for s in config.levels]
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
    """A classifier of noised latents, trained on fresh images of source and target in equal shares, sigma log-uniform from 0.05 to 100."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DomainClassifier().to(device)
    optimizer, g, source = torch.optim.Adam(net.parameters(), lr=1e-3), torch.Generator(device).manual_seed(11), glyphs.World(size=64)
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
    """Mean log-odds of the target along each method's trajectory, and the stds of its samples along the directions of truth."""
    guides = {"none": (tuned.denoiser(judge.label), 1.0), "CFG": (tuned.denoiser(tuned.null), 1.5), "DoG": (base.denoiser(base.null), 1.5),
              f"DoG, w = {W:g}": (base.denoiser(base.null), W)}
    sigmas, axes, odds, stds, sheets = sampling.levels(config.study.steps), _axes(judge), {}, {}, {}
    x_T = sampling.scaled(sampling.noise(sampling.Config(seed=seed), range(judge.setting.samples), tuned.shape)[0].to(judge.device), sigmas)
    for name, (guide, w) in guides.items():
        odds[name] = []
        for x, sigma in zip(dpmpp_2m(guided(tuned.denoiser(judge.label), guide, w), x_T, sigmas), sigmas[1:], strict=True):
            level = max(sigma.item(), 0.05)                # the classifier's lowest; the last x is clean
            noised = x if sigma > 0.05 else _noised(x, 0.05, seed)
            odds[name].append(round(classifier(noised, torch.full((len(x),), level, device=x.device)).mean().item(), 4))
        stds[name] = {view: [float(f"{v:.5g}") for v in within(z @ axes[view][0], judge.label.cpu())] for view, z in _views(judge, x).items()}
        sheets[name] = sheet(x[:12])
    return dict(odds=odds, stds=stds, sigmas=[round(s.item(), 5) for s in sigmas[1:]]) | (dict(sheets=sheets) if seed == 0 else {})


def sheet(z):
    """Latents as one row of grey pictures, a PNG in base64, for a record to hold."""
    x = Unshuffle().decode(z).clamp(-1, 1)[:, 0]                                                          # (n, 64, 64)
    held = io.BytesIO()
    Image.fromarray(((x + 1) * 127.5).round().byte().cpu().permute(1, 0, 2).flatten(1).numpy()).save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()


def _views(judge, x):
    """Latents and features of the same images, (n, D) float64 on the CPU."""
    return dict(latents=x.flatten(1).double().cpu(), features=judge._read(x).features.double().cpu())


def _axes(judge):
    n = max(judge.setting.truth, 130)
    source = codes(glyphs.World(size=64).sample(n, generator=torch.Generator().manual_seed(3), device=judge.device)[0])
    views = [_views(judge, x) for x in (source, judge.draw(n, 4))]
    return {k: generalized(views[0][k], views[1][k], torch.arange(n) % judge.world.num_classes) for k in views[0]}


def _ratios(config, device):
    judge = Judge(config.study, config.study.targets[0], device)
    return {k: r.round(5).tolist() for k, (_, r) in _axes(judge).items()}


def sharpening(record, view):
    """Predicted (W - 1) log r and measured log(std DoG / std none) along each direction.  -> (d,), (S, d)"""
    cells = record["results"]["cells"]
    measured = np.log([np.array(c["stds"][f"DoG, w = {W:g}"][view]) / c["stds"]["none"][view] for c in cells])
    return (W - 1) * np.log(np.maximum(record["results"]["ratio"][view], 1e-3)), measured


def figure(record):
    """Size and direction of the two terms, what was forgotten, log-odds along the trajectories, the closed form by direction."""
    cells, levels = record["results"]["cells"], record["config"]["levels"]
    last = [c["stages"][-1] for c in cells]
    over = lambda kind, name: np.array([s[kind][name] for s in last]).T
    with plot.style():
        fig, axes = plt.subplots(1, 5, figsize=(26, 4.8))
        for name, method, label in (("domain", "DoG", "domain term"), ("class", "CFG", "class term")):
            plot.sweep(axes[0], levels, over("terms", name), method, label)
            plot.sweep(axes[1], levels, over("terms", f"{name}_to_truth"), method, f"{label} and truth")
        plot.sweep(axes[1], levels, over("terms", "angle"), "none", "the two terms")
        for name, method in (("pre-trained null, source", "DoG"), ("fine-tuned null, source", "CFG"), ("fine-tuned null, target", "none"), ("fine-tuned label, target", "plane")):
            plot.sweep(axes[2], levels, over("errors", name), method, name)
        for method in ("none", "CFG", "DoG"):
            plot.sweep(axes[3], np.maximum(cells[0]["sigmas"], 0.05), np.array([c["odds"][method] for c in cells]).T, method)
        for view, color, marker in (("features", "#0072B2", "o"), ("latents", "#E69F00", "^")):
            predicted, measured = sharpening(record, view)
            axes[4].plot(predicted, measured.mean(0), marker, color=color, label=view, alpha=0.7)
        axes[4].axline((0, 0), slope=1, color="black", linewidth=1)
        titles = ("Two terms over the noise", "Do they point to the truth?", "What the null branch forgot", "Is it of the domain?", f"Which directions sharpen? w = {W:g}")
        labels = ("rms", "cosine", "mean squared error", "log-odds of the target", "measured change of log std")
        for ax, title, label in zip(axes, titles, labels, strict=True):
            ax.set(title=title, ylabel=label, xlabel="noise level σ" if ax is not axes[4] else "predicted, (w − 1) log r")
            ax.legend(fontsize=10)
        for ax in axes[:4]:
            ax.set_xscale("log")
        axes[2].set_yscale("log")
        fig.supxlabel(f"{len(cells)} seeds, 95% bootstrap intervals", fontsize=11)
    return fig
