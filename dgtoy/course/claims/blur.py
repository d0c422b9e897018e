"""The rule of C32, committed before its record; a pilot of two sources and two weights came first."""

import numpy as np

from ..experiments.blur import INSIDE, KEPT, best_blur, held_out_blur, of_blur
from ..intervals import LOGS, ratio, student
from ..records import family, values
from ..tradeoff import at_equal_cost
from .finding import Finding, listed

LEAST, MOST = 2.0, 16.0  # strokes between which the best blur is expected
MARGIN = 0.1  # stds of a class, by which a mean may move
W = 2.0
OUTSIDE = ("far source", "narrow source")


def c32(record):
    """How wide the best blur is, whether held-out points find it, and who overshoots where."""
    best = {world: best_blur(record, world) for world in INSIDE}
    found = {world: held_out_blur(record, world) for world in INSIDE}
    worse = {world: relative_to_best(record, world, found[world]) for world in INSIDE}
    dog, own = ({world: moved(record, world, m) for world in OUTSIDE} for m in ("DoG", "blurred self"))
    parts = {f"a few strokes: {w}": bool(((LEAST <= b) & (b <= MOST)).all()) for w, b in best.items()}
    parts |= {f"held-out points find it: {world}": r < 1.25 for world, r in worse.items()}
    parts |= {f"DoG overshoots: {world}": dog[world][1] > MARGIN for world in OUTSIDE}
    parts |= {f"the blurred self does not: {w}": max(map(abs, own[w][1:])) < MARGIN for w in OUTSIDE}
    clusters = np.repeat(np.arange(len(INSIDE)), len(record["seeds"]))
    middle = student(np.log(np.concatenate(list(best.values()))), clusters)
    kept = {w: at_equal_cost(of_blur(record, w, KEPT)) for w in INSIDE}
    to_dog = {w: ratio(kept[w], at_equal_cost(family(record, "DoG", world=w))) for w in INSIDE}
    means = {world: np.exp(np.log(b).mean()) for world, b in best.items()}
    shifts = "; ".join(f"{w} DoG {dog[w][0]:.2f}, blurred self {own[w][0]:.2f}" for w in OUTSIDE)
    return Finding(
        *np.exp(middle).tolist(),
        len(INSIDE),
        "width of the best blur, in stds of a stroke, geometric mean over worlds",
        parts,
        f"best {listed(means, '.1f')}; held-out points choose {listed(found, 'g')}, whose area is "
        f"{listed(worse)} times the best one's; at b = {KEPT:g} the area relative to DoG's is "
        f"{listed(to_dog)}; at w = {W:g} means move outwards, in stds of a class: {shifts}",
        f"{LOGS} over {len(INSIDE)} worlds, {len(record['seeds'])} sources each",
    )


def relative_to_best(record, world, b):
    """The area that a blur leaves, relative to that of the best one."""
    widths = record["config"]["widths"]
    areas = {width: at_equal_cost(of_blur(record, world, width)).mean() for width in widths}
    return areas[b] / min(areas.values())


def moved(record, world, method):
    """How far guidance moves the means of classes outwards, in their stds.  -> (mean, low, high)"""
    at = lambda **which: values(record, "shift", world=world, **which)
    return student(at(method=method, w=W) - at(method="none"))
