"""The guidance plane: no guidance, CFG and DoG are points of it. Is the best point on
one of their lines? (C19)"""

import dataclasses

import numpy as np

from ...guidance import plane
from .. import plot
from ..lab import PointConfig, on_own_sources, prepared
from ..records import best, caption, rows, values
from .gap import moments
from .panels import frame, plane_lines
from .runs import recorded

OUTSIDE = 0.015  # the rate up to which a line's best point is chosen by match; of true samples it is 0.01


@dataclasses.dataclass(frozen=True)
class Config(PointConfig):
    """The grid of domain weights a and class weights b."""

    a: tuple = (1.0, 1.1, 1.25, 1.5)
    b: tuple = (1.0, 1.1, 1.25, 1.5)

    @classmethod
    def full(cls):
        """For one core of a CPU: five minutes."""
        grid = (0.9, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0)
        return cls(on_own_sources(seeds=16), a=grid[:10], b=grid)


@recorded
def run(config, device, progress):
    """Rows of a, b and each metric by seed, and the stds of source (a mean over the seeds'), target and class
    for the closed form."""
    pre, ft, judge = prepared(config.setting, device, progress)
    found = [dict(a=a, b=b, **judge.judged(method)) for a, b, method in grid(config, ft, pre)]
    sources = [config.setting.world(seed=s).source for s in config.setting.each_seed()]
    laws = dict(source=sources, domain=[judge.target], label=[judge.target.given(0)])
    return dict(rows=found, stds={name: _std(of_name) for name, of_name in laws.items()})


def grid(config, finetuned, pretrained):
    """Every point of the plane: (a, b, label -> denoiser)."""
    guide, null = pretrained.denoiser(pretrained.null), finetuned.denoiser(finetuned.null)
    for a in config.a:
        for b in config.b:
            yield a, b, lambda y, a=a, b=b: plane(guide, null, finetuned.denoiser(y), a, b)


def families(points):
    """The points of each method's family, which all have weights a and b.
    -> {"none", "CFG", "DoG", "plane": rows}"""
    return dict(
        none=[r for r in points if r["a"] == r["b"] == 1],
        CFG=[r for r in points if r["a"] == 1],
        DoG=[r for r in points if r["a"] == r["b"]],
        plane=[r for r in points if r["a"] != 1 and r["a"] != r["b"]],
    )


def _std(laws):
    """The geometric mean of some laws' stds along the two axes."""
    return float(np.exp(np.mean([np.log(moments(law, axis)[1]) for law in laws for axis in (0, 1)])))


def best_points(record, on=slice(None)):
    """The best point of each family by means over some places in the list of seeds.
    -> {"CFG", "DoG", "plane": row}

    CFG (a = 1) and DoG (a = b): the lowest energy distance among points with out-of-domain rate at most
    OUTSIDE, or the lowest rate if there is none. plane, off both lines: the point whose worst ratio to those
    two, over both metrics, is smallest, so that below 1 it beats both lines in both. Raises ValueError if the
    grid has no point off the lines.
    """
    mean = lambda r, metric: np.mean(np.array(r[metric])[on])

    def on_line(family):
        inside = [r for r in family if mean(r, "out_of_domain") <= OUTSIDE]
        if not inside:
            return min(family, key=lambda r: mean(r, "out_of_domain"))
        return min(inside, key=lambda r: mean(r, "energy"))

    found = families(rows(record))
    cfg, dog, off = on_line(found["CFG"]), on_line(found["DoG"]), found["plane"]
    if not off:
        raise ValueError("the grid has no point off the lines a = 1 and a = b")

    def worst_ratio(r):
        metrics = ("out_of_domain", "energy")
        return max(mean(r, m) / max(mean(line, m), 1e-9) for line in (cfg, dog) for m in metrics)

    return dict(CFG=cfg, DoG=dog, plane=min(off, key=worst_ratio))


def figure(record):
    """Maps of out-of-domain rate and energy distance over the plane, the two lines and the
    closed form's level sets."""
    closest = best(rows(record), "energy")
    titles = ("Out of domain: both directions help", f"Match: best at a = {closest['a']}, b = {closest['b']}")
    foot = caption(record, "; dashed: equal std by the closed form", intervals=False)
    with frame(titles, (14, 5.6), foot) as (fig, axes):
        for ax, metric in zip(axes, ("out_of_domain", "energy"), strict=True):
            draw(ax, record, metric)
        axes[0].legend(loc="upper left", fontsize=11, frameon=True, facecolor="white", framealpha=1)
    return fig


def draw(ax, record, metric):
    """One map over (a, b), log colour scale, with the CFG and DoG lines and the closed form's level sets."""
    a, b, stds = record["config"]["a"], record["config"]["b"], record["results"]["stds"]
    means = np.array([[np.mean(values(record, metric, a=x, b=y)) for x in a] for y in b])
    mesh = ax.contourf(a, b, np.log10(np.maximum(means, 1e-4)), levels=14, cmap="cividis")
    bar = ax.figure.colorbar(mesh, ax=ax, label=f"log10 of {plot.NAMES[metric]}")
    bar.ax.tick_params(labelsize=11)
    A, B = np.meshgrid(a, b)
    log_std = (1 - A) * np.log(stds["source"]) + (A - B) * np.log(stds["domain"]) + B * np.log(stds["label"])
    ax.contour(a, b, log_std, levels=6, colors="white", linestyles="dashed", linewidths=1.2)
    plane_lines(ax, a, b)
    here = dict(color="white", markeredgecolor="black", markersize=11, linestyle="")
    ax.plot(1, 1, "o", label="no guidance", **here)
