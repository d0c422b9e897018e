"""Small images on the guidance plane: the best point, and the weights that held-out
images ask for. (C18, C19)"""

import dataclasses

import numpy as np
import torch

from .. import plot
from ..pictures import BROAD, PictureConfig, course, prepared, replica
from ..records import best, caption, merge, rows, values
from . import plane
from .calibration import calibrated, weigh
from .panels import frame, level, plane_lines
from .runs import in_cells


@dataclasses.dataclass(frozen=True)
class Config(PictureConfig):
    """The grid of weights at each stage (fine-tuning steps); `held_out` images and
    `levels` for calibration."""

    stages: tuple = (20, 60)
    a: tuple = (1.0, 1.5)
    b: tuple = (1.0, 1.5)
    held_out: int = 60
    levels: tuple = (8.0, 2.0, 0.5, 0.12)

    @classmethod
    def full(cls):
        grid = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5)
        levels = (20.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03)
        return cls(BROAD, (1000, 3000), a=grid, b=grid, held_out=620, levels=levels)

    @classmethod
    def replica(cls):
        grid = (1.0, 1.3, 1.5, 1.75, 2.0)
        return replica(cls.full(), a=grid, b=grid)


def _cell(config, device, seed):
    judge, pre = prepared(config.setting, device)
    tuned = course(config.setting, config.stages, seed, device)
    x0 = judge.draw(config.held_out, 7_000 + seed)  # images that the fine-tune has not seen
    held_out = (x0, torch.arange(len(x0), device=x0.device) % judge.world.num_classes)
    found, fits = [], []
    for stage in config.stages:
        ft = tuned[stage]
        fit = weigh(ft, pre, held_out, config.levels, seed)
        fits.append({method: c.weights.round(decimals=4).tolist() for method, c in fit.items()})
        asked = dict(CFG=[fit["CFG"].w], DoG=[fit["DoG"].w], plane=[fit["plane"].a, fit["plane"].b])
        tried = [("plane", *point) for point in plane.grid(config, ft, pre)]
        tried += [(name, w, w, method) for name, w, method in calibrated(ft, pre, asked)]
        for name, a, b, method in tried:
            found.append(dict(stage=stage, method=name, a=a, b=b, score=judge.judged(method, seed)))
    return dict(rows=found, fits=fits)


def _results(config, device, found):
    """Rows of stage, method, a, b ("calibrated" or numbers) and each metric by seed; `fits`: calibrated
    weights by seed."""
    seeds = list(found.values())
    fits = [
        dict(stage=stage, **{m: [r["fits"][i][m] for r in seeds] for m in ("CFG", "DoG", "plane")})
        for i, stage in enumerate(config.stages)
    ]
    return dict(rows=merge(r["rows"] for r in seeds), fits=fits)


compute, run = in_cells(_cell, results=_results)


def families(record, stage):
    """The points of each method's family at a stage, weights found by calibration aside.
    -> {"none", "CFG", "DoG", "plane": rows}"""
    found = rows(record, stage=stage, method="plane")
    return plane.families([r for r in found if r["a"] != "calibrated"])


def figure(record):
    """At each stage the map of the Fréchet distance with both lines, and the
    calibrated weights against sigma."""
    stages = record["config"]["stages"]
    titles = [
        title.format(stage)
        for stage in stages
        for title in ("Match to the target, {} steps", "What held-out images ask for, {} steps")
    ]
    size = (13, 5 * len(stages))
    with frame(titles, size, caption(record), rows=len(stages)) as (fig, axes):
        for left, right, stage, fit in zip(
            axes[::2], axes[1::2], stages, record["results"]["fits"], strict=True
        ):
            _map(left, record, stage)
            for column, (name, method) in enumerate((("a*, domain", "DoG"), ("b*, class", "CFG"))):
                by_level = np.array(fit["plane"])[:, :, column].T  # (levels, S)
                plot.sweep(right, record["config"]["levels"], by_level, method, name)
            level(right, 1)
            right.set(xscale="log", xlabel="noise level σ", ylabel="calibrated weight")
            right.legend(fontsize=11)
        axes[0].legend(fontsize=11, frameon=True, facecolor="white", framealpha=1, loc="upper right")
    return fig


def _map(ax, record, stage):
    """The Fréchet distance over the plane at a stage, both lines, and the best point off them."""
    a, b = record["config"]["a"], record["config"]["b"]
    at = lambda x, y: np.log10(values(record, "frechet", stage=stage, method="plane", a=x, b=y).mean())
    heights = np.array([[at(x, y) for x in a] for y in b])
    mesh = ax.contourf(a, b, heights, levels=14, cmap="Greys_r", vmin=heights.min() - 0.6)
    ax.figure.colorbar(mesh, ax=ax, label="log10 of the Fréchet distance")
    plane_lines(ax, a, b)
    point = best(families(record, stage)["plane"])
    look = plot.METHODS["plane"] | dict(linestyle="", markersize=16, label="best off the lines")
    ax.plot(point["a"], point["b"], **look)
    ax.set(xlim=(0.97, None))
