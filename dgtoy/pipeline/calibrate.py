"""How much guidance does a fine-tune ask for? Weights over sigma from held-out images, and what they mean."""

import dataclasses
import math
import pathlib
import warnings

import numpy as np
import torch

from ..calibration import calibrate_methods
from ..checks import SEEDS
from ..trainer import check_ranges
from .latents import Latents
from .manifest import write_json

LEVELS = (40.0, 20.0, 10.0, 5.0, 2.5, 1.2, 0.6, 0.3, 0.15, 0.08)


@dataclasses.dataclass(frozen=True)
class Config:
    """levels: noise levels sigma, in latent units. count: of held-out images. seed: of the noise.

    Raises ValueError for values out of range.
    """

    levels: tuple = LEVELS
    count: int = 256
    seed: int = 0
    batch: int = 64

    def __post_init__(self):
        check_ranges(self, count="[1, inf)", batch="[1, inf)", seed=SEEDS)
        if not self.levels or not all(0 < sigma < math.inf for sigma in self.levels):
            raise ValueError(f"levels is {self.levels}; expected positive, finite noise levels")


def calibrate(tuned, guide, data, config, device="cpu"):
    """w* of Domain Guidance, w* of CFG and the plane's a*, b* at each level, with 95% intervals.  -> {method:
    Calibration}

    tuned, guide: `VP`s or `Flow`s. data: `Latents` of images that the fine-tune has not seen.
    """
    g = torch.Generator().manual_seed(config.seed)
    rows = torch.randperm(len(data), generator=g)[: config.count]
    x0, label = data.draw(
        rows, torch.rand(len(rows), generator=g) < 0.5, torch.randn(len(rows), *data.shape, generator=g)
    )
    held_out = (x0.to(device), label.to(device))
    null, pretrained = tuned.denoiser(tuned.null), guide.denoiser(guide.null)
    options = dict(seed=config.seed + 1, device=device, resamples=100, batch=config.batch)
    return calibrate_methods(tuned.denoiser, null, pretrained, held_out, config.levels, **options)


def unseen(folder, finetuned, made):
    """Latents that the fine-tune has not been trained on: those that were held out, or all of another folder,
    but for copies of what it was trained on, wherever their files lie.

    made: what `finetune` says of the file `finetuned`. Warns where that is not known, and of copies. Raises
    ValueError for the latents that it was trained on: on these every fine-tune looks finished.
    """
    training = Latents(folder)
    split, same = training.plan.get("held_out"), made.get("data") == training.fingerprint
    data = Latents(folder, held_out=True) if split else training
    count, copies = len(data), data.without(made.get("seen", ()))
    trained_on = not split if same else made.get("images") == training.plan["images"]
    if trained_on or not len(data):
        raise ValueError(
            f"latents {folder} hold images that {finetuned} was trained on; expected some that it has not"
            " seen: prepare with --held-out 0.2 and fine-tune on that, or prepare others"
        )
    if "images" not in made:
        warnings.warn(
            f"whether {finetuned} was trained on the held-out images of {folder} is not known; if it was, its"
            " weights look finished whatever they are",
            stacklevel=2,
        )
    if copies:
        warnings.warn(
            f"{copies} of {count} images of {folder} are copies of images that {finetuned} was trained on;"
            " they are left out",
            stacklevel=2,
        )
    return data


ERROR_ALONE = (
    "This is about squared error alone: whether guidance sharpens samples or saturates them it cannot tell;"
    " sample with --w 1, 1.25, 1.5 and 2, and compare by `dit evaluate` and `dit table`."
)


def recommend(found, then=ERROR_ALONE):
    """What the weights of Domain Guidance tell, and what they do not, in words.  -> str

    then: the sentence that says what to do.
    """
    dog = found["DoG"]
    mean, low, high = (np.median(a[:, 0].numpy()) for a in (dog.weights, dog.low, dog.high))
    least, most = dog.weights[:, 0].argmin(), dog.weights[:, 0].argmax()
    ends = (f"{dog.weights[i, 0]:.2f} at sigma {dog.sigmas[i]:g}" for i in (least, most))
    if low > 1.05:
        state = f"unfinished: guidance with w about {mean:.2f} brings it closer to held-out images"
    elif high < 0.95:
        state = "overfitted: train less or with more images; w below 1 fits held-out images better"
    elif high - low > 0.2:
        state = "not judged: the interval is too wide, expected more held-out images"
    else:
        state = "finished: by squared error on held-out images no weight is better than 1"
    return (
        f"w* of Domain Guidance is {mean:.2f} [{low:.2f}, {high:.2f}], the median over the noise levels (from"
        f" {' to '.join(ends)}): the fine-tune is {state}. {then}"
    )


def to_json(found):
    """The calibrations as plain lists; an interval without an end, which JSON lacks, ends at None."""
    fields = ("sigmas", "weights", "low", "high")
    lists = {method: {field: getattr(c, field).tolist() for field in fields} for method, c in found.items()}
    for held in lists.values():
        for end in ("low", "high"):
            held[end] = [[w if math.isfinite(w) else None for w in row] for row in held[end]]
    return lists


def save(found, out, checksums):
    """OUT/calibration.json, with the checksums of both networks by name, and OUT/calibration.png."""
    from matplotlib import style

    out = pathlib.Path(out)
    write_json(out / "calibration.json", to_json(found) | checksums)
    with style.context("default"):  # whatever a reader's own theme
        figure(found).savefig(out / "calibration.png")


def figure(found):
    """w* of both methods, and the plane's a*, b*, over sigma, each with its interval.

    The axis holds the middle four fifths of the weights; a level beyond it is a triangle at the edge, with
    its number.
    """
    from matplotlib.figure import Figure  # no pyplot: it needs neither a display nor a choice of backend

    blue, orange = "#0072B2", "#E69F00"  # Okabe & Ito's: Domain Guidance, and the class direction
    fig = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = fig.subplots(1, 2, sharey=True)
    middle = np.quantile(np.concatenate([c.weights.flatten() for c in found.values()]), [0.1, 0.9])
    bottom, top = min(0.0, middle[0] - 0.5), max(2.0, middle[1] + 0.5)
    for ax, method, column, colour, name in (
        (left, "DoG", 0, blue, "w*, Domain Guidance"),
        (left, "CFG", 0, orange, "w*, CFG"),
        (right, "plane", 0, blue, "a*, domain"),
        (right, "plane", 1, orange, "b*, class"),
    ):
        c = found[method]
        weights = c.weights[:, column]
        ax.fill_between(c.sigmas, c.low[:, column], c.high[:, column], color=colour, alpha=0.2, linewidth=0)
        ax.plot(c.sigmas, weights, color=colour, marker="o", label=name)
        for sigma, w in zip(c.sigmas, weights):
            if not bottom <= w <= top:
                edge, marker = (top, "^") if w > top else (bottom, "v")
                ax.plot(sigma, edge, color=colour, marker=marker, markersize=9, clip_on=False)
                ax.annotate(f" {w:.3g}", (sigma, edge), color=colour, annotation_clip=False)
    left.set(title="One direction", ylabel="weight", ylim=(bottom, top))
    right.set(title="The plane")
    for ax in (left, right):
        ax.axhline(1, color="black", linewidth=1)
        ax.set(xscale="log", xlabel="noise level σ")
        ax.legend(frameon=False)
    left.invert_xaxis()  # as sampling goes
    right.invert_xaxis()
    return fig
