"""The rule of C20, written and committed before its record existed."""

import numpy as np

from ..experiments.photos_why import GUIDED, accounted, breadth, forecast, measured
from ..intervals import STUDENT, student
from .finding import Finding

ERROR = 0.05  # of ln std, by which the law may miss a direction on average


def fitted(record, method, change=measured):
    """Slope and correlation of a method's change of log std, or of its guide's push, on DoG's closed form,
    over directions.  -> (targets,), (targets,)"""
    pairs = list(zip(forecast(record), change(record, method), strict=True))
    slopes = [np.polyfit(foretold, found, 1)[0] for foretold, found in pairs]
    return np.array(slopes), np.array([np.corrcoef(foretold, found)[0, 1] for foretold, found in pairs])


def c20(record):
    """Does DoG narrow photographs as the closed form of Gaussians says, and it alone?"""
    slopes, orders = zip(*(fitted(record, method) for method in GUIDED), strict=True)
    slope, order = dict(zip(GUIDED, slopes)), dict(zip(GUIDED, orders))
    missed = np.abs(accounted(record, "law") - accounted(record, "change")).mean()
    amount, correlation = student(slope["DoG"]), student(order["DoG"])
    parts = {
        "the law of the ODE accounts for every method": missed < ERROR,
        "the order of directions": correlation[1] > 0.5,
        "the amount": amount[1] > 0.8 and amount[2] < 1.2,
    } | {
        f"more so than {rival}": student(slope["DoG"] - slope[rival])[1] > 0
        for rival in GUIDED
        if rival != "DoG"
    }
    of_rivals = ", ".join(
        f"{rival} {slope[rival].mean():.2f}, {order[rival].mean():.2f}" for rival in GUIDED if rival != "DoG"
    )
    broader = ", ".join(f"{name} {np.exp(breadth(record, name).mean()):.2f}" for name in ("none", *GUIDED))
    config, n = record["config"], len(slopes[0])
    return Finding(
        *amount,
        n,
        f"slope of the measured change of log std against the closed form's, {config['rank']} directions of "
        f"each class of photographs, w = {config['w']:g}",
        parts,
        f"correlation {correlation[0]:.2f} [{correlation[1]:.2f}, {correlation[2]:.2f}]; slope and "
        f"correlation of {of_rivals}; the law misses by {missed:.1g} of ln std on average; spread "
        f"relative to true pictures: {broader}",
        f"{STUDENT} over {n} fine-tunes of one network, {config['pictures']} pictures of each of "
        f"{len(config['labels'])} classes",
    )
