"""The rule of C31, committed before its record; a pilot of one problem for each shape came first."""

import numpy as np

from ..experiments.closed import GUIDES, SHAPES, amount, forecasts, order
from ..intervals import student
from ..records import rows
from .finding import over_seeds

ERROR = 0.02  # of ln std, by which the closed form of Gaussians, and the law, may miss a direction


def c31(record):
    """Order and amount of what DoG does to each direction, by shape, and whether they are DoG's alone."""
    foretold, made = forecasts(record, "Gaussian", "DoG")
    law = max(np.abs(np.subtract(r["law"], r["change"])).max() for r in rows(record))
    slopes = {shape: student(amount(*forecasts(record, shape, "DoG"))) for shape in SHAPES}
    orders = {shape: student(order(*forecasts(record, shape, "DoG"))) for shape in SHAPES}
    others = [shape for shape in SHAPES if shape != "Gaussian"]
    parts = {
        "exact for Gaussians, broader and narrower sources at once": np.abs(foretold - made).max() < ERROR,
        "the law of the ODE accounts for every guide and shape": law < ERROR,
    }
    parts |= {f"the order: {shape}": orders[shape][1] > 0.5 for shape in others}
    parts |= {f"the amount: {shape}": 0.8 < slopes[shape][1] and slopes[shape][2] < 1.2 for shape in others}
    parts |= {f"DoG alone: {shape}": min(ahead(record, shape)) > 0 for shape in SHAPES}
    describe = "; ".join(f"{shape} {slopes[shape][0]:.2f}, {orders[shape][0]:.2f}" for shape in SHAPES)
    own = {m: [amount(*forecasts(record, s, m)).mean() for s in SHAPES] for m in ("blurred self", "CFG")}
    rivals = [order(*forecasts(record, s, m, "by_DoG")).mean() for s in SHAPES for m in GUIDES[1:]]
    return over_seeds(
        record,
        min(slopes.values()),
        f"smallest slope, over shapes, of the change of log std that DoG made against the closed form's, "
        f"w = {record['config']['w']:g}",
        parts,
        f"slope and correlation {describe}; correlation of other guides with DoG's closed form "
        f"{min(rivals):.2f} to {max(rivals):.2f}; slope against their own, in the same order, "
        + ", ".join(f"{m} {', '.join(f'{v:.2f}' for v in values)}" for m, values in own.items())
        + f"; the law misses by {law:.3f} of ln std at most",
    )


def ahead(record, shape):
    """By how much DoG follows its closed form in order more than each other guide does, the lower ends."""
    dog = order(*forecasts(record, shape, "DoG"))
    return [student(dog - order(*forecasts(record, shape, m, "by_DoG")))[1] for m in GUIDES[1:]]
