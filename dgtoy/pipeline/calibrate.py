"""How much guidance does a fine-tune ask for? Weights over sigma from held-out images, and what they mean."""

import dataclasses

import numpy as np
import torch

from .. import calibration

LEVELS = (40.0, 20.0, 10.0, 5.0, 2.5, 1.2, 0.6, 0.3, 0.15, 0.08)


@dataclasses.dataclass(frozen=True)
class Config:
    """levels: noise levels sigma, in latent units. count: of held-out images. seed: of the noise."""

    levels: tuple = LEVELS
    count: int = 256
    seed: int = 0
    batch: int = 64


def calibrate(tuned, guide, data, config, device="cpu"):
    """w* of Domain Guidance, w* of CFG and the plane's a*, b* at each level, with 95% intervals.  -> {method:
    Calibration}

    tuned, guide: `VP`s. data: `Latents` of images that the fine-tune has not seen.
    """
    g = torch.Generator().manual_seed(config.seed)
    rows = torch.randperm(len(data), generator=g)[: config.count]
    x0, label = data.draw(
        rows, torch.rand(len(rows), generator=g) < 0.5, torch.randn(len(rows), *data.shape, generator=g)
    )
    held_out = (x0.to(device), label.to(device))
    null, pretrained = tuned.denoiser(tuned.null), guide.denoiser(guide.null)
    found = {}
    for method, other, middle in (
        ("DoG", pretrained, None),
        ("CFG", null, None),
        ("plane", pretrained, null),
    ):
        noise = torch.Generator(device).manual_seed(config.seed + 1)
        found[method] = calibration.calibrate(
            tuned.denoiser, other, held_out, config.levels, middle, noise, resamples=100, batch=config.batch
        )
    return found


def recommend(found):
    """What the weights say, in words.  -> str"""
    dog = found["DoG"]
    mean, low, high = (np.median(a[:, 0].numpy()) for a in (dog.weights, dog.low, dog.high))
    if low > 1.05:
        state = "unfinished"
        advice = (
            f"Domain Guidance with w about {mean:.2f} completes it; more sharpens at the cost of diversity."
        )
    elif high < 0.95:
        state = "overfitted"
        advice = "Train less or with more data; guidance backwards (w below 1) fits held-out images better."
    else:
        state = "finished"
        advice = (
            "By squared error no guidance is needed; w from 1.1 to 1.5 trades diversity for sharper samples, "
            "so search there."
        )
    return (
        f"w* of Domain Guidance is {mean:.2f} [{low:.2f}, {high:.2f}] in the middle of the noise levels: "
        f"the fine-tune is {state}. {advice}"
    )


def to_json(found):
    """The calibrations as plain lists."""
    fields = ("sigmas", "weights", "low", "high")
    return {method: {field: getattr(c, field).tolist() for field in fields} for method, c in found.items()}


def figure(found):
    """w* of both methods, and the plane's a*, b*, over sigma, each with its interval."""
    import matplotlib.pyplot as plt

    blue, orange = "#0072B2", "#E69F00"  # Okabe & Ito's: Domain Guidance, and the class direction
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for ax, method, column, colour, name in (
        (left, "DoG", 0, blue, "w*, Domain Guidance"),
        (left, "CFG", 0, orange, "w*, CFG"),
        (right, "plane", 0, blue, "a*, domain"),
        (right, "plane", 1, orange, "b*, class"),
    ):
        c = found[method]
        ax.fill_between(c.sigmas, c.low[:, column], c.high[:, column], color=colour, alpha=0.2, linewidth=0)
        ax.plot(c.sigmas, c.weights[:, column], color=colour, marker="o", label=name)
    left.set(title="One direction", ylabel="weight")
    right.set(title="The plane")
    for ax in (left, right):
        ax.axhline(1, color="black", linewidth=1)
        ax.set(xscale="log", xlabel="noise level σ")
        ax.invert_xaxis()  # as sampling goes
        ax.legend(frameon=False)
    return fig
