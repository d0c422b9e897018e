"""How much guidance does a fine-tune ask for? Weights over sigma from held-out images of its data set, and what they mean."""

import dataclasses

import numpy as np
import torch

from ..calibration import calibrate as fit

LEVELS = (40.0, 20.0, 10.0, 5.0, 2.5, 1.2, 0.6, 0.3, 0.15, 0.08)


@dataclasses.dataclass(frozen=True)
class Config:
    """levels: noise levels sigma, in latent units. count: of held-out images. seed: of the noise."""

    levels: tuple = LEVELS
    count: int = 256
    seed: int = 0
    batch: int = 64


def calibrate(tuned, guide, data, config, device="cpu"):
    """w* of Domain Guidance, w* of CFG and the plane's a*, b* at each level, with 95% intervals.  -> {method: Calibration}

    tuned, guide: `VP`s. data: `Latents` of images that the fine-tune has not seen.
    """
    g = torch.Generator().manual_seed(config.seed)
    rows = torch.randperm(len(data), generator=g)[: config.count]
    x0, label = data.draw(
        rows, torch.rand(len(rows), generator=g) < 0.5, torch.randn(len(rows), *data.shape, generator=g)
    )
    held_out = (x0.to(device), label.to(device))
    null, base = tuned.denoiser(tuned.null), guide.denoiser(guide.null)
    found = {}
    for method, (other, middle) in {"DoG": (base, None), "CFG": (null, None), "plane": (base, null)}.items():
        noise = torch.Generator(device).manual_seed(config.seed + 1)
        found[method] = fit(
            tuned.denoiser, other, held_out, config.levels, middle, noise, resamples=100, batch=config.batch
        )
    return found


def recommend(found):
    """What the weights say, in words.  -> str"""
    w = found["DoG"]
    mean, low, high = (np.median(a[:, 0].numpy()) for a in (w.weights, w.low, w.high))
    if low > 1.05:
        state, advice = (
            "unfinished",
            f"Domain Guidance with w about {mean:.2f} completes it; more sharpens at the cost of diversity",
        )
    elif high < 0.95:
        state, advice = (
            "overfitted",
            "train less or with more data; guidance backwards (w below 1) fits held-out images better",
        )
    else:
        state, advice = (
            "finished",
            "by squared error no guidance is needed; w from 1.1 to 1.5 trades diversity for sharper samples, so search there",
        )
    return f"w* of Domain Guidance is {mean:.2f} [{low:.2f}, {high:.2f}] in the middle of the noise levels: the fine-tune is {state}. {advice[0].upper()}{advice[1:]}."


def to_json(found):
    """The calibrations as plain lists."""
    return {
        m: dict(
            sigmas=c.sigmas.tolist(), weights=c.weights.tolist(), low=c.low.tolist(), high=c.high.tolist()
        )
        for m, c in found.items()
    }


def figure(found):
    """w* of both methods and the plane's a*, b* over sigma."""
    import matplotlib.pyplot as plt

    from ..course import plot

    with plot.style():
        fig, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
        curves = (
            (axes[0], "DoG", 0, "DoG", "w*, Domain Guidance"),
            (axes[0], "CFG", 0, "CFG", "w*, CFG"),
            (axes[1], "plane", 0, "DoG", "a*, domain"),
            (axes[1], "plane", 1, "CFG", "b*, class"),
        )
        for ax, method, column, look, name in curves:
            c = found[method]
            colour = plot.METHODS[look]["color"]
            ax.fill_between(
                c.sigmas, c.low[:, column], c.high[:, column], color=colour, alpha=0.2, linewidth=0
            )
            ax.plot(c.sigmas, c.weights[:, column], label=name, **plot.METHODS[look])
        for ax, title in zip(axes, ("One direction", "The plane"), strict=True):
            ax.axhline(1, color="black", linewidth=1)
            ax.set(
                xscale="log", xlabel="noise level σ", title=title, ylabel="weight" if ax is axes[0] else ""
            )
            ax.legend(fontsize=11)
    return fig
