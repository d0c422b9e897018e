"""Where does it help, where does it hurt? A map over domain gap, source breadth and w. (C8)"""

import dataclasses
import math

import numpy as np
from matplotlib.patheffects import withStroke
from scipy.special import ndtr, ndtri

from ... import theory
from .. import plot
from ..lab import ON_OTHER_SOURCES, PointConfig, PointSetting, on_own_sources, prepared, replace, scores
from ..records import row, rows, values
from .calibration import regime, weigh_seeds
from .panels import frame
from .runs import recorded


@dataclasses.dataclass(frozen=True)
class Config(PointConfig):
    """The map: each gap, breadth of the source and weight. `levels`, `held_out` points per class: of the
    calibration that tells the regime."""

    setting: PointSetting = on_own_sources(finetune=dict(steps=800))
    gaps: tuple = (0.0, 1.0, 2.0)
    breadths: tuple = (0.5, 1.0)
    weights: tuple = (1.25,)
    levels: tuple = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03)
    held_out: int = 256

    @classmethod
    def full(cls):
        """For one core of a CPU: half an hour."""
        return cls(
            on_own_sources(finetune=dict(steps=2000)),
            gaps=(0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
            breadths=(0.25, 0.5, 1.0, 2.0, 3.0),
            weights=(1.1, 1.25, 1.5, 2.0),
        )

    @classmethod
    def replica(cls):
        """For one core of a CPU: ten minutes."""
        return cls(
            replace(ON_OTHER_SOURCES, finetune=dict(steps=2000)),
            gaps=(0.0, 0.5, 1.0, 2.0),
            breadths=(0.5, 1.0, 2.0),
            weights=(1.1, 1.25, 1.5, 2.0),
        )


@recorded
def run(config, device, progress):
    """Rows of gap, breadth, method, w and each metric by seed, with the closed form's out-of-domain rate for
    that cell and seed; `regimes`: of each cell's fine-tunes."""
    found, regimes = [], []
    for breadth in config.breadths:
        for gap in config.gaps:
            cell, setting = dict(gap=gap, breadth=breadth), replace(config.setting, gap=gap, breadth=breadth)
            for r in scores(setting, config.weights, device, progress):
                rates = [predicted(setting, r["w"], seed) for seed in setting.each_seed()]
                found.append(cell | dict(predicted=rates) | r)
            pre, ft, judge = prepared(setting, device, progress)
            fit = weigh_seeds(config, judge.target, ft, pre)
            regimes.append(cell | dict(regime=regime(config.levels, fit)))
    return dict(rows=found, regimes=regimes)


EDGE = ndtri(0.995)  # stds from the target's mean: 1% of the target lies farther out


def share_outside(target, source, w, interval=(0.0, math.inf)):
    """The share of the guided Gaussian that lies farther than EDGE target stds from the target's mean.

    target, source: (mean, std), see `theory.gaussian_guidance`.
    """
    mean, std = theory.gaussian_guidance(target, source, w, interval)
    shift, edge = mean - target[0], EDGE * target[1]
    return ndtr((shift - edge) / std) + ndtr((-edge - shift) / std)


def predicted(setting, w, seed=0):
    """The closed form's out-of-domain rate in the world of a seed: DoG helps where it is below 0.01, the rate
    of true samples.

    `share_outside` averaged over classes: source and each class enter as Gaussians with their own mean and
    std along the direction of the gap. No network, no sample and no free constant enters.
    """
    world = setting.world(seed=seed)
    source, target = moments(world.source), world.target
    classes = [moments(target.given(c)) for c in range(target.num_classes)]
    return float(np.mean([share_outside(of_class, source, w) for of_class in classes]))


def moments(mixture, axis=0):
    """Mean and std of a mixture along one axis."""
    mean = mixture.weights @ mixture.means[:, axis]
    second = mixture.weights @ (mixture.means[:, axis] ** 2 + mixture.covs[:, axis, axis])
    return mean.item(), (second - mean**2).sqrt().item()


def over_map(record, cell):
    """A function of (gap, breadth) over the map.  -> (breadths, gaps)"""
    config = record["config"]
    return np.array([[cell(gap=g, breadth=b) for g in config["gaps"]] for b in config["breadths"]])


def saved(record, w, method="DoG", metric="out_of_domain"):
    """Metric of none minus metric of the method, mean over seeds: positive where
    guidance helps.  (breadths, gaps)"""

    def cell(**where):
        none = values(record, metric, method="none", **where)
        return (none - values(record, metric, method=method, w=w, **where)).mean()

    return over_map(record, cell)


def helped(record):
    """Where DoG lowers the out-of-domain rate and where the closed form says so, at every gap, breadth and w.

    -> rows of DoG, what it saves (rows, S), whether that is predicted (rows, S). Raises ValueError for rates
    that are not finite.
    """
    found = rows(record, method="DoG")
    none = [values(record, "out_of_domain", gap=r["gap"], breadth=r["breadth"], method="none") for r in found]
    saved = np.subtract(none, [r["out_of_domain"] for r in found])
    predicted = np.array([r["predicted"] for r in found])
    if not np.isfinite([saved, predicted]).all():
        raise ValueError(f"{record['name']} holds rates that are not finite; expected shares of the samples")
    return found, saved, predicted < 0.01


def rule_of_thumb(rows):
    """Where a one-line rule says that DoG helps: the gap is at most 3/4 of the breadth.  -> (rows,)"""
    return np.array([r["gap"] <= 0.75 * r["breadth"] for r in rows])


def figure(record):
    """Maps of the out-of-domain rate that DoG saves, one for each weight, with the closed form's boundary."""
    weights = [w for w in record["config"]["weights"] if w in (1.1, 1.25, 1.5)]
    title = "DoG helps (blue) mostly where the closed form says"
    if len(weights) > 1:
        title += ": a broad source, a near target, a small w"
    seeds, size = len(record["seeds"]), (1 + 6.2 * len(weights), 5)
    foot = f"out-of-domain rate, none minus DoG; {seeds} seeds, each on a source of its own; "
    foot += "black: the closed form's boundary"
    with frame([f"w = {w}" for w in weights], size, foot, sharey=True) as (fig, axes):
        for ax, w in zip(axes, weights, strict=True):
            draw(ax, record, w)
        axes[0].set(ylabel="source breadth")
        fig.suptitle(title, fontweight="bold", x=0.01, ha="left")
    return fig


def draw(ax, record, w):
    """One map over gap and breadth, with the boundary where the closed form's
    rate is that of true samples."""
    config, look = record["config"], dict(cmap="RdBu", centre=0.0, fmt="{:+.2f}", bar=False, reach=0.4)
    shown = saved(record, w)
    image = plot.heat(ax, config["gaps"], config["breadths"], shown, None, **look)
    for text, value in zip(ax.texts, np.ravel(shown), strict=True):  # readable where the boundary crosses it
        text.set_path_effects([withStroke(linewidth=3, foreground=image.to_rgba(value))])
    rates = lambda **where: np.array(row(record, method="DoG", w=w, **where)["predicted"])
    logs = over_map(record, lambda **where: np.log(np.maximum(rates(**where), 1e-12)).mean()) - np.log(0.01)
    if logs.min() < 0 < logs.max():
        ax.contour(np.clip(logs, -2, 2), levels=[0.0], colors="black", linewidths=3.5)
    ax.set(xlabel="domain gap (1: target at the source's edge)")
