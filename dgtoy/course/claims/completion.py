"""The rules of C29 and C30, committed before their records: when held-out points pay, and why the null branch
levels off."""

from ..experiments.budget import FEWER, GREEDY, LINES, SEARCHED, STAGES
from ..experiments.null_branch import AS_IT_IS, NULL, SHARE, error
from ..intervals import LOGS, ratio
from ..records import rows, values
from .finding import over_seeds

BEGUN, CLASSES, FINISHED, OVERFITTED = STAGES
UNFINISHED = (BEGUN, CLASSES)


def energy(record, stage, method, w="calibrated"):
    """A method's energy distance at a stage, by seed.  -> (S,)"""
    return values(record, "energy", stage=stage, method=method, w=w)


def left_by(record, stage, method, w="calibrated"):
    """The energy distance that a method leaves, relative to no guidance with all points in training.
    -> (ratio, low, high)"""
    return ratio(energy(record, stage, method, w), energy(record, stage, "none", 1.0))


def to_chosen(record, stage, way):
    """The mean energy distance that weights by least squares leave, relative to weights chosen on samples:
    CFG or DoG, whichever compares worse."""
    left = lambda method: energy(record, stage, method).mean()
    return max(left(method) / left(method + way) for method in LINES)


def c29(record):
    """Calibrated on a quarter of the points, trained on the rest, against none trained on all."""
    left = {s: {m: left_by(record, s, m) for m in (*LINES, "plane")} for s in STAGES}
    fewer = {s: left_by(record, s, FEWER, 1.0) for s in STAGES}
    chosen = {way: {s: to_chosen(record, s, way) for s in UNFINISHED} for way in (SEARCHED, GREEDY)}
    plane = {s: r["plane"] for s, r in left.items()}
    parts = {f"completes: {s}": plane[s][2] < 1 for s in UNFINISHED}
    parts |= {
        "restrains where overfitted": plane[OVERFITTED][2] < 1,
        "costs less than a fifth where finished": plane[FINISHED][2] < 1.2,
        "least squares within 10% of weights chosen on samples": max(chosen[GREEDY].values()) <= 1.1,
    }
    table = "; ".join(f"{s} {', '.join(f'{r[0]:.2f}' for r in found.values())}" for s, found in left.items())
    return over_seeds(
        record,
        plane[BEGUN],
        "energy distance of the calibrated plane relative to no guidance with all points, hardly begun",
        parts,
        f"calibrated CFG, DoG, plane: {table}; no guidance on the remaining points alone "
        f"{_listed({s: r[0] for s, r in fewer.items()})}. Least squares relative to one weight chosen on "
        f"samples {_listed(chosen[SEARCHED])}, to a weight per stretch {_listed(chosen[GREEDY])}. "
        f"{when_to_calibrate(record)}",
        LOGS,
    )


def when_to_calibrate(record):
    """When held-out points serve better as such than in training, in one sentence."""
    plane = {s: left_by(record, s, "plane") for s in STAGES}
    pays = [s for s in STAGES if plane[s][2] < 1]
    costs = [s for s in STAGES if plane[s][1] > 1]
    further = energy(record, CLASSES, "none", 1.0).mean() < energy(record, BEGUN, "plane").mean()
    return (
        f"Calibrating pays where the fine-tune is {' or '.join(pays) or 'none of these'}, and costs where it "
        f"is {' or '.join(costs) or 'none of these'}; where training can go on, "
        + ("train: 300 steps" if further else "it depends: 300 steps")
        + f" without guidance are {'closer' if further else 'no closer'} than 100 steps calibrated"
    )


def _listed(found):
    return ", ".join(f"{name} {value:.2f}" for name, value in found.items())


def c30(record):
    """The null branch's error after one change relative to its error as it is."""
    names = [r["change"] for r in rows(record, branch=NULL) if r["change"] != AS_IT_IS]
    left = {change: ratio(error(record, change), error(record, AS_IT_IS)) for change in names}
    training = [name for name in names if name == SHARE or name.endswith("steps")]
    parts = {f"lower by a quarter and more: {c}": left[c][2] < 0.75 for c in training}
    parts |= {f"not lower by a quarter: {c}": left[c][1] > 0.75 for c in names if c not in training}
    return over_seeds(
        record,
        left[SHARE],
        "excess error of the null branch with all of the training, relative to its tenth",
        parts,
        f"after one change: {_listed({c: r[0] for c, r in left.items()})}",
        LOGS,
    )
