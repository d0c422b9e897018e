"""Which guide, which weight, on which noise: a table for readers, every entry from the records."""

import itertools
import math

import numpy as np

from ..experiments.blur import KEPT, of_blur
from ..experiments.gap import helped, rule_of_thumb
from ..experiments.nulls import of_guide
from ..intervals import ratio
from ..lab import ON_AN_INTERVAL
from ..records import family, load, of_method
from ..tradeoff import CONTRACTION, area, at_equal_cost, at_own_weight, with_contraction
from .finding import either

GUIDES = {  # what a reader has: its name in `nulls`, in `transfer`, in words
    "own null": ("CFG", "CFG"),
    "learned source": ("DoG", "DoG"),
    "weaker self": ("autoguidance", "autoguidance (an early checkpoint)"),
    "blurred self, b = 0.4": ("blurred self", "the model's own density, blurred"),
}
FAR = "far source"  # the world of `blur` whose target lies off the source's middle
HEADER = "| the fine-tune | how you notice | guide | w | what it does | the others, relative to it |"
ABOVE = "w\\* above 1.1"  # the weights that held-out data ask for, as a cell says it
BOUNDED = "with thickness bounded as well"


def table(out="figures"):
    """The decisions as a Markdown table, from the records in `out`."""
    lines = [HEADER, "|---|---|---|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in decisions(out)])


def short(out="figures"):
    """The decisions as a small table for the README: stages, guide, weight; one row where these are equal."""
    alike = itertools.groupby(decisions(out), lambda row: row[2:4])
    lines = [f"| {', '.join(row[0] for row in rows)} | {guide} | {w} |" for (guide, w), rows in alike]
    return "\n".join(["| the fine-tune | guide | w |", "|---|---|---|", *lines])


def decisions(out="figures"):
    """The rows of the table, each six strings."""
    record = load("nulls", out)
    world = record["config"]["worlds"][0][0]
    place = lambda stage: dict(world=world, stage=stage)
    return [
        _to_complete(record, place("hardly begun"), "DoG", "for DoG, at σ ≥ 0.5"),
        _to_complete(record, place("class unfinished"), "CFG", "for CFG, at σ ≥ 0.5"),
        _to_sharpen(record, place("detail missing"), out, _above(record, place("detail missing"))),
        _to_sharpen(record, place("finished"), out, "every w\\* within 0.1 of 1"),
        _overfitted(load("calibration", out)),
        _outside(load("gap", out), load("blur", out)),
    ]


def _weights(record, place, method):
    """The calibrated weights of a stage, means over seeds, and their levels.  -> (levels,), (levels,)"""
    fit = next(f for f in record["results"]["fits"] if place.items() <= f.items())
    return np.mean(fit[method], 0)[:, 0], np.array(record["config"]["levels"])


def _above(record, place):
    weights, levels = _weights(record, place, "DoG")
    return f"{ABOVE} at σ ≤ {levels[weights > 1.1].max():g} alone (up to {weights.max():.1f})"


def _to_complete(record, place, method, where):
    """A stage in which guidance can lower the energy distance: the guide that lowers it most."""
    weights, levels = _weights(record, place, method)
    high = weights[levels >= 0.5].max()
    best = {
        g: at_own_weight(of_guide(record, g, **place), "energy", minimize="energy", budget=math.inf)
        for g in GUIDES
    }
    guide = min(best, key=lambda g: best[g]["energy"].mean())
    lowest = best[guide]["energy"]
    none = np.mean(of_guide(record, guide, **place)[0]["energy"])
    return (
        place["stage"],
        f"{ABOVE} {where} (up to {high:.1f})",
        GUIDES[guide][1],
        either(best[guide]["w"]),
        f"energy distance {none:.3f} to {lowest.mean():.3f}",
        "energy distance: " + _beside(guide, {g: best[g]["energy"] for g in GUIDES}),
    )


def _beside(guide, values):
    """The values of the other guides, relative to that of the one named, as text; in bold where the 95%
    interval over sources excludes 1."""
    told = {GUIDES.get(g, (g,))[0]: ratio(v, values[guide]) for g, v in values.items() if g != guide}
    mark = lambda low, high: "**" if low > 1 or high < 1 else ""
    return ", ".join(f"{name} {mark(*r[1:])}{r[0]:.1f}{mark(*r[1:])}" for name, r in told.items())


def _to_sharpen(record, place, out, notice):
    """A stage in which guidance only sharpens: the guide with the least area under its trade-off, at the
    weight that leaves least outside for a bounded loss of thickness."""
    curves = {g: of_guide(record, g, **place) for g in GUIDES}
    by_match = {g: area(c) for g, c in curves.items()}
    at_both = {g: at_equal_cost(c) for g, c in curves.items()}
    guide = min(GUIDES, key=lambda g: by_match[g].mean())
    w, change = _thinned(curves[guide])
    return (
        place["stage"],
        notice,
        GUIDES[guide][1],
        w + _noise(out, GUIDES[guide][0]),
        change,
        f"outside: {_beside(guide, by_match)}; {BOUNDED}: {_beside(guide, at_both)}",
    )


def _noise(out, method):
    """On which noise, as text, where the method's trade-off is better on an interval, in the record of
    finished networks; nothing where it is not."""
    try:
        record = load("transfer", f"{out}/replica")
    except FileNotFoundError:
        return ""  # an interval was not tried
    domain = record["config"]["domains"][0]
    on, always = (area(family(record, m, domain=domain)) for m in (method + ON_AN_INTERVAL, method))
    return f" at σ ≤ {record['config']['interval'][1]:g}" if ratio(on, always)[2] < 1 else ""


def _overfitted(record):
    fits = next(f for f in record["results"]["fits"] if f["stage"] == "overfitted")
    levels = np.array(record["config"]["levels"])
    low = np.mean(fits["DoG"], 0)[levels <= 0.12, 0]
    none, found = (
        of_method(record, "energy", m, "calibrated", stage="overfitted").mean() for m in ("none", "DoG")
    )
    return (
        "overfitted",
        f"w\\* below 0.9 at low noise (down to {low.min():.1f})",
        "none, or DoG with the held-out weights",
        f"{low.min():.1f} to 1",
        f"energy distance {none:.3f} to {found:.3f}",
        "–",
    )


def _outside(gaps, record):
    """A target off the source's middle: how often DoG helps, and which guide leaves least outside there."""
    cells, saved, _ = helped(gaps)
    saved = saved[~rule_of_thumb(cells)].mean(1)
    curves = {m: family(record, m, world=FAR) for m in ("CFG", "DoG", "autoguidance")}
    curves["blurred self"] = of_blur(record, FAR, KEPT)
    left = {m: at_equal_cost(curve) for m, curve in curves.items()}
    method = min(left, key=lambda m: left[m].mean())
    w, change = _thinned(curves[method])
    return (
        "target at the source's edge or outside",
        "source and target farther apart than three quarters of the source's half-width",
        next(words for name, words in GUIDES.values() if name == method),
        w,
        change,
        f"outside, {BOUNDED}, densities exact: {_beside(method, left)}; "
        f"DoG helps in {np.mean(saved > 0):.0%} of {len(saved)} such cells",
    )


def _thinned(curve):
    """The weight that leaves least outside for a bounded loss of thickness, and what it does, as text."""
    curve = with_contraction(curve)
    own = at_own_weight(curve, "out_of_domain", "thickness", cost="contraction", budget=CONTRACTION)
    change = lambda metric: f"{np.mean(curve[0][metric]):.3f} to {own[metric].mean():.3f}"
    return either(own["w"]), f"outside {change('out_of_domain')}, thickness {change('thickness')}"
