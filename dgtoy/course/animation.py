"""The animation of notebook 00: four ways to sample, from the same noise to the moons."""

import io
import pathlib

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from ..checkpoint import whole
from ..samplers import heun
from ..train import Recipe
from . import plot
from .lab import PointSetting, methods, prepared

SETTING = PointSetting(seeds=1, samples=200, steps=50, finetune=Recipe(steps=1500))
NAMES = ("none", "CFG", "DoG", "DoG on an interval")
CLASSES = ("#882255", "#2A8C82")  # of the dots; colours of methods would say something else
COMMAND = b"python -m dgtoy animation"  # the file's own comment


def write(
    path="figures/flow.gif", setting=SETTING, w=1.5, interval=(0.0, 0.5), shown=(6.0, 0.02), device="cpu"
):
    """Sample by each of the four methods, and write where the points are, level by level.

    setting: its first seed is drawn. shown: from which noise level down to which; the samples follow. The
    GIF plays three times and stops at the samples.  -> the path. Raises ValueError for another ending.
    """
    if pathlib.Path(path).suffix.lower() != ".gif":
        raise ValueError(f"path is {path}; expected a name that ends in .gif, as the animation is a GIF")
    pre, ft, judge = prepared(setting, device)
    ways = methods(ft, pre, [w], NAMES, interval)
    flows = {name: flow(judge, method) for name, _, method in ways}
    sigmas = setting.sigmas()
    levels = [i for i, sigma in enumerate(sigmas) if shown[1] <= sigma <= shown[0] or sigma == 0]
    pictures = [frame({name: x[i] for name, x in flows.items()}, sigmas[i].item(), judge) for i in levels]
    with whole(path) as part:
        part.write_bytes(gif(pictures))
    return path


def flow(judge, method):
    """Where the points of each class are at each noise level, (levels, classes, n, 2)."""
    sigmas = judge.setting.sigmas()
    paths = []
    for c in range(len(judge.parts)):
        x_T = sigmas[0].float() * judge.start(c)
        paths.append(torch.stack([x_T, *heun(method(c), x_T, sigmas)])[:, 0])  # of the first seed
    return torch.stack(paths, 1)


def frame(places, sigma, judge):
    """The points of each method, (classes, n, 2), in a window that closes in as the noise falls."""
    limit = 2.0 * (1 + sigma**2) ** 0.5
    with plot.style():
        fig, axes = plt.subplots(2, 2, figsize=(6.0, 4.6), dpi=100)
        for ax, (name, x) in zip(axes.flat, places.items(), strict=True):
            for points, color in zip(x, CLASSES):
                ax.scatter(*points.T, s=7, color=color, linewidths=0)
            for part in judge.parts:
                plot.contours(ax, part, limit)
            ax.set(xlim=(-limit, limit), ylim=(-0.75 * limit, 0.75 * limit), xticks=[], yticks=[])
            ax.set_title(name, fontsize=13)
            ax.spines[:].set_visible(False)
        fig.supxlabel(f"noise σ = {sigma:.2f}", fontsize=12)
        fig.canvas.draw()
        picture = Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert("RGB")
        plt.close(fig)
    return picture


def gif(pictures, seconds=0.1, last=2.5):
    """Pictures as an animation in few colours, the bytes of a file."""
    palette = pictures[-1].quantize(10, dither=Image.Dither.NONE)
    few = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    duration = [1000 * seconds] * (len(few) - 1) + [1000 * last]
    file, more = io.BytesIO(), few[1:]
    few[0].save(file, "gif", save_all=True, append_images=more, duration=duration, loop=2, comment=COMMAND)
    return file.getvalue()
