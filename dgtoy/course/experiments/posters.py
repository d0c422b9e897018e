"""The same noise under each method, as pictures: the shipped photo model's fine-tunes.

The first pictures of seed 0 in order, the classes taking turns; none is picked.
"""

import base64
import dataclasses
import io
import math

import numpy as np
import torch
from PIL import Image

from ... import shipped
from ...guidance import guided
from ...samplers import dpmpp_2m, karras, last
from ..lab import Presets
from .panels import frame
from .runs import recorded

DPI = 96  # a picture has 64 pixels, and an inch of the page
EVERYWHERE, INSIDE = (0.0, math.inf), (0.2, 5.0)  # noise levels at which guidance is on
ROWS = {  # name: method, w, noise levels
    "none": ("none", 1.0, EVERYWHERE),
    "CFG, w = 1.5": ("CFG", 1.5, EVERYWHERE),
    "CFG, w = 3": ("CFG", 3.0, EVERYWHERE),
    "DoG, w = 1.5": ("DoG", 1.5, EVERYWHERE),
    "DoG, w = 3": ("DoG", 3.0, EVERYWHERE),
    "DoG, w = 3,\nσ 0.2 to 5": ("DoG", 3.0, INSIDE),
}


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """targets: of `shipped.FINE_TUNES`. count: pictures of a row. crowd: of one class of the first target,
    and so many, for the price: DoG at the weights `prices`."""

    targets: tuple = ("photos64-food",)
    seeds: int = dataclasses.field(default=1, init=False)  # of the noise, which is drawn once
    count: int = 2
    steps: int = 4
    crowd: tuple = (14, 2)  # pizza
    prices: tuple = (1.0, 1.5, 3.0)

    @classmethod
    def full(cls):
        return cls(shipped.FINE_TUNES, count=10, steps=24, crowd=(14, 16))


def noise(n, shape=(3, 64, 64), seed=0):
    """Standard normal noise of n pictures: that of picture i depends on seed and i alone.  -> (n, *shape)"""
    each = [torch.Generator().manual_seed(1_000_000 * seed + i) for i in range(n)]
    return torch.stack([torch.randn(shape, generator=g) for g in each])


def sampled(tuned, pre, method, w, interval, x_T, label, steps):
    """Pictures of a fine-tune from standard normal noise x_T (n, 3, 64, 64), label (n,).  -> as x_T"""
    guide = tuned.denoiser(tuned.null) if method == "CFG" else pre.denoiser(pre.null)
    D = guided(tuned.denoiser(label), guide, w, interval)
    sigmas = karras(steps, 0.004, 80.0)
    return last(dpmpp_2m(D, sigmas[0].float() * x_T, sigmas))


@recorded
def run(config, device, progress):
    """A row for each target and method, and for each price: its pictures as one strip."""
    pre = shipped.load("photos64", device)
    tuned, (one, many) = shipped.load(config.targets[0], device), config.crowd
    for w in config.prices:
        label = torch.full((many,), one, device=device)
        x = sampled(tuned, pre, "DoG", w, EVERYWHERE, noise(many).to(device), label, config.steps)
        yield dict(target="one class", row=f"DoG, w = {w:g}", strip=encoded(x))
    for target in config.targets:
        tuned = shipped.load(target, device)
        label = torch.arange(config.count, device=device) % tuned.null
        x_T = noise(config.count).to(device)
        for name, (method, w, interval) in ROWS.items():
            x = sampled(tuned, pre, method, w, interval, x_T, label, config.steps)
            yield dict(target=target, row=name, strip=encoded(x))


def encoded(x):
    """Pictures (n, 3, H, W) in [-1, 1] side by side, as JPEG in base64."""
    pixels = ((x.cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    wide = pixels.permute(2, 0, 3, 1).flatten(1, 2)  # (H, n W, 3)
    held = io.BytesIO()
    Image.fromarray(wide.numpy()).save(held, "jpeg", quality=88, subsampling=0)
    return base64.b64encode(held.getvalue()).decode()


def strip(row):
    """The pictures of a row of the record.  -> (H, n W, 3) uint8"""
    return np.array(Image.open(io.BytesIO(base64.b64decode(row["strip"]))))


def figure(record):
    """Of the first target every method's row."""
    return poster(record, record["config"]["targets"][:1], ROWS)


def price(record, title=""):
    """Pictures of one class at growing weights, in lines of eight."""
    return poster(record, ["one class"], [f"DoG, w = {w:g}" for w in record["config"]["prices"]], title, 8)


def poster(record, targets, rows, title="", columns=None):
    """Rows of pictures, each 96 pixels wide on the page, under a title.

    columns: pictures of a line, which a longer row continues in the next; by default all of a row.
    """
    by_row = {(r["target"], r["row"]): strip(r) for r in record["results"]["rows"]}
    lines = []  # of name, pixels
    for target in targets:
        for row in rows:
            pixels = by_row[target, row]
            side, width, _ = pixels.shape
            step = columns * side if columns else width
            parts = np.split(pixels, list(range(step, width, step)), axis=1)
            lines += zip([row] + [""] * (len(parts) - 1), parts, strict=True)
    label, pictures = 1.2, lines[0][1].shape[1] / side  # inches, of one inch a picture
    size = (label + pictures, 1.03 * len(lines))
    titles = [title] + [""] * (len(lines) - 1)
    with frame(titles, size, rows=len(lines), dpi=DPI, layout="none") as (fig, axes):
        fig.subplots_adjust(label / size[0], 0, 1, 1, hspace=0.02)
        for ax, (name, pixels) in zip(axes, lines, strict=True):
            show(ax, name, pixels)
    return fig


def show(ax, name, pixels):
    """A strip of pictures (H, n W, 3) with its name on the left."""
    ax.imshow(pixels, interpolation="lanczos")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
