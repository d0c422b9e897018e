"""The rules of C4, C18, C29 and C30: what fine-tuning forgets, and when held-out points pay."""

import numpy as np

from ..experiments.budget import FEWER, GREEDY, LINES, SEARCHED, STAGES
from ..experiments.null_branch import AS_IT_IS, NULL, SHARE, error
from ..intervals import LOGS, ratio, student
from ..records import rows, values
from .finding import listed, over_seeds
from .points import slope

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
    return float(np.max([left(method) / left(method + way) for method in LINES]))


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
        f"{listed(fewer)}. Least squares relative to one weight chosen on "
        f"samples {listed(chosen[SEARCHED])}, to a weight per stretch {listed(chosen[GREEDY])}. "
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
        f"after one change: {listed(left)}",
        LOGS,
    )


def c4(record):
    sizes = record["config"]["sizes"]
    error = lambda branch: np.array([values(record, "excess", size=s, branch=branch) for s in sizes])
    worse = error("null branch on the target") - error("labelled branch on its class")  # (sizes, S)
    lost = error("null branch on the source") / error("pre-trained on the source")
    at = [student(w)[1] > 0 for w in worse]
    parts = {
        "null is worse at every size": all(at),
        "the source is lost": bool(np.min(lost) > 1),
        "the gap grows as data shrinks": slope(sizes, worse)[2] < 0,
        "the loss grows as data shrinks": slope(sizes, lost)[2] < 0,
    }
    few, many = worse[0].mean(), worse[-1].mean()
    regimes = {f"{r['size']} points": r["regime"] for r in record["results"]["regimes"]}
    times = np.exp(student(np.log(lost).mean(0)))
    return over_seeds(
        record,
        student(worse.mean(0)),
        "excess error, null minus labelled branch",
        parts,
        f"null is the worse one at {sum(at)} of {len(sizes)} sizes, by {few:.3f} at {sizes[0]} points and "
        f"{many:.3f} at {sizes[-1]}; "
        f"on the source its error is {times[0]:.0f} [{times[1]:.0f}, {times[2]:.0f}] times the pre-trained "
        f"model's. Fine-tunes by held-out data: {listed(regimes, '')}",
    )


def c18(record):
    fits = {f["stage"]: np.array(f["plane"]) for f in record["results"]["fits"]}  # (S, levels, 2)
    levels = np.array(record["config"]["levels"])

    def level(stage, low, high, column=0):
        """A weight of the plane, averaged over a range of noise levels."""
        inside = (levels >= low) & (levels <= high)
        return student(fits[stage][:, inside, column].mean(1))

    def excess(method, family):
        """Energy distance of a calibrated method over that of the best constant
        weight, at the worst stage."""
        ratios = []
        for stage in fits:
            tried = [r for r in rows(record, stage=stage) if r["w"] != "calibrated" and r["method"] in family]
            found = np.min([np.mean(r["energy"]) for r in tried])
            ratios.append(energy(record, stage, method).mean() / found)
        return float(np.max(ratios))

    stages = ("100 steps", "300 steps", "finished", "overfitted")
    none = {s: energy(record, s, "none", 1.0) for s in stages}
    gain = {s: student(none[s] - energy(record, s, "plane")) for s in stages}
    above, classes = level("100 steps", 1, 8), level("300 steps", 1, 8, column=1)
    done, below = level("finished", 0.1, 8), level("overfitted", 0, 0.1)
    dog, plane = excess("DoG", ("none", "DoG")), excess("plane", ("none", "CFG", "DoG"))
    parts = {
        "a* above 1 where hardly begun": above[1] > 1,
        "b* above 1 where the class is unfinished": classes[1] > 1,
        "about 1 where finished": abs(done[0] - 1) < 0.1,
        "below 1 where overfitted": below[2] < 1,
        "completes": gain["100 steps"][1] > 0 and gain["300 steps"][1] > 0,
        "restrains": gain["overfitted"][1] > 0,
        "no search needed within 10% at every stage: DoG": dog <= 1.1,
        "no search needed within 10% at every stage: plane": plane <= 1.1,
    }
    cut = ", ".join(f"{gain[s][0] / none[s].mean():.0%} ({s})" for s in stages)
    return over_seeds(
        record,
        above,
        "a* of a fine-tune after 100 steps (sigma 1 to 8)",
        parts,
        f"after 300 steps b* is {classes[0]:.1f}; finished a* {done[0]:.2f}; overfitted (sigma up to 0.1) "
        f"{below[0]:.2f}. The calibrated plane cuts the energy distance by {cut}; "
        f"against the best constant w found by search, "
        f"calibrated DoG is at worst {dog:.2f} times, the plane {plane:.2f} times",
    )
