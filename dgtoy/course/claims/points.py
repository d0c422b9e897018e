"""The rules that judge the claims about points.

C5, C7, C9, C10 and C12 compare methods over the whole trade-off and each at its own weight (`left`), with
the numbers at equal w beside them.
"""

import functools
import math

import numpy as np

from ..experiments.gap import helped, rule_of_thumb
from ..experiments.plane import best_points
from ..experiments.size import brought_closer, of_size, outliers_removed
from ..intervals import LOGS, RESAMPLED, STUDENT, ratio, resampled, student
from ..lab import ALWAYS, FIELD, ON_AN_INTERVAL
from ..records import HALVES, family, rows, values
from ..tradeoff import CONTRACTION, area, at_own_weight, with_contraction
from .finding import Finding, drawn, over_seeds

W = 1.25  # the weight at which claims compare methods
NONE, CFG, DOG = dict(method="none"), dict(method="CFG", w=W), dict(method="DoG", w=W)


def paired(record, better, worse, metric="out_of_domain", **where):
    """metric(worse) - metric(better), paired by seed, so above 0 if `better` is.  -> (mean, low, high)"""
    return student(values(record, metric, **where, **worse) - values(record, metric, **where, **better))


def left(one, other):
    """What a family of rows leaves outside relative to another: below 1 it is better.

    -> {"by area": over the whole trade-off, "at own weight": each at the weight chosen on other seeds}, each
    (ratio, low, high)
    """
    own = lambda curve: at_own_weight(curve, "out_of_domain")["out_of_domain"]
    return {"by area": ratio(area(one), area(other)), "at own weight": ratio(own(one), own(other))}


def at_equal_thickness(one, other):
    """The first number of `left`, with the loss of thickness as the cost.  -> (ratio, low, high)"""
    curves = (with_contraction(curve) for curve in (one, other))
    return ratio(*(area(curve, cost="contraction", reach=CONTRACTION) for curve in curves))


def thickness_told(one, other):
    """`at_equal_thickness` in words, where the record measured it."""
    measured = "thickness" in one[0]
    return f", at equal loss of thickness {at_equal_thickness(one, other)[0]:.2f}" if measured else ""


def over_all_w(curve, rival):
    """The area of every method of the field relative to a rival's, in words.

    curve: name -> its rows, the one without guidance first, which is alone where the record lacks the method.
    """
    found = {name: curve(name) for name in FIELD if name != rival}
    relative = {m: ratio(area(c), area(curve(rival)))[0] for m, c in found.items() if len(c) > 1}
    return ", ".join(f"{name} {value:.2f}" for name, value in relative.items())


def at_own_weights(curve, names):
    """The out-of-domain rate of methods, each at its own weight, in words."""
    own = {name: at_own_weight(curve(name), "out_of_domain") for name in names}
    chosen = {name: " or ".join(f"{w:g}" for w in np.unique(found["w"])) for name, found in own.items()}
    return ", ".join(f"{m} {found['out_of_domain'].mean():.3f} (w = {chosen[m]})" for m, found in own.items())


def slope(x, y):
    """The slope of y against log2 x, seed by seed.  x (n,), y (n, S) -> (mean, low, high)"""
    return student([np.polyfit(np.log2(x), column, 1)[0] for column in np.array(y).T])


def share(part, whole):
    """mean(part) / mean(whole) over the last axis, for `resampled`."""
    return part.mean(-1) / whole.mean(-1)


def off_lines(at, words):
    """What a point off both lines of the plane gains over the best point of each.

    at(family, metric): of that family's point, by seed. words: {metric: what is better if it is lower}.
    -> {(line, metric): (mean, low, high)}, the parts of the claim
    """
    pairs = [(line, metric) for line in ("CFG", "DoG") for metric in words]
    gain = {(line, m): student(at(line, m) - at("plane", m)) for line, m in pairs}
    return gain, {f"{words[m]} than {line}": gain[line, m][1] > 0 for line, m in pairs}


def c1(record):
    errors = [r["error"] for r in rows(record, claim="C1")]
    return Finding(
        max(errors),
        min(errors),
        max(errors),
        len(errors),
        "largest relative error (range over mixtures)",
        {"to 1e-10": max(errors) < 1e-10},
        "CFG's term and the domain term add up to DoG on every random mixture",
        f"range over {len(errors)} random mixtures",
    )


def c2(record):
    found = rows(record, claim="C2")
    distance = student([r["guided"] for r in found])
    floor = max(r["floor"] for r in found)
    return over_seeds(
        record,
        distance,
        "W1 to the tilted density, in its std",
        {"far above the floor": distance[1] > 3 * floor},
        f"without guidance the same sampler is within {floor:.2g}; "
        "for Gaussians the two stds differ in closed form",
    )


def c3(record):
    found = rows(record, claim="C3")
    error = lambda r, what: abs(r[f"found_{what}"] / r[f"predicted_{what}"] - 1)
    errors = [max(error(r, "std"), error(r, "overshoot")) for r in found]
    return over_seeds(
        record,
        student(errors),
        "relative error of end std and mean",
        {"within 1%": max(errors) < 0.01},
        f"worst direction {max(errors):.2g}; broad sources contract, narrow ones overshoot",
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
    times = np.exp(student(np.log(lost).mean(0)))
    return over_seeds(
        record,
        student(worse.mean(0)),
        "excess error, null minus labelled branch",
        parts,
        f"null is the worse one at {sum(at)} of {len(sizes)} sizes, by {few:.3f} at {sizes[0]} points and "
        f"{many:.3f} at {sizes[-1]}; "
        f"on the source its error is {times[0]:.0f} [{times[1]:.0f}, {times[2]:.0f}] times the pre-trained "
        "model's",
    )


def c5(record):
    domains = learned_domains(record)
    curve = {d: functools.partial(family, record, domain=d) for d in domains}
    outside = lambda domain, method: values(record, "out_of_domain", domain=domain, **method).mean()
    dog = {d: left(curve[d]("DoG"), curve[d]("CFG")) for d in domains}
    cfg = {d: left(curve[d]("CFG"), rows(record, method="none", domain=d)) for d in domains}
    parts = {
        f"{name} {way}: {d}": found[d][way][2] < 1
        for name, found in (("DoG < CFG", dog), ("CFG < none", cfg))
        for d in domains
        for way in found[d]
    }
    told = "; ".join(
        f"{d}: area {dog[d]['by area'][0]:.2f}{thickness_told(curve[d]('DoG'), curve[d]('CFG'))}; outside at "
        f"own weight none {outside(d, NONE):.3f}, {at_own_weights(curve[d], ('CFG', 'DoG'))}; at w = {W} CFG "
        f"{outside(d, CFG):.3f}, DoG {outside(d, DOG):.3f}"
        for d in domains
    )
    dropped = [d for d in record["config"]["domains"] if d not in domains]
    return over_seeds(
        record,
        dog[domains[0]]["by area"],
        "area under the trade-off, DoG relative to CFG",
        parts,
        f"{told}. The field relative to DoG, {domains[0]}: {over_all_w(curve[domains[0]], 'DoG')}"
        + "".join(f". {d.capitalize()} left out: its fine-tune has not learned the class" for d in dropped),
        LOGS,
    )


def learned_domains(record):
    """The domains of a record in which most samples of the fine-tune itself lie inside the target."""
    outside = lambda domain: values(record, "out_of_domain", domain=domain, **NONE).mean()
    return [d for d in record["config"]["domains"] if outside(d) < 0.5] or record["config"]["domains"][:1]


def c6(record):
    margin = 0.01
    without, with_ = (values(record, "out_of_domain", dropout=p, **DOG) for p in (0.0, 0.1))
    pair = student(without - with_)
    helps = paired(record, DOG, NONE, dropout=0.0)
    broken = paired(record, NONE, CFG, dropout=0.0)
    return over_seeds(
        record,
        pair,
        f"out-of-domain rate of DoG, dropout 0 minus 0.1, w = {W}",
        {"as good": pair[2] < margin, "helps": helps[1] > 0, "CFG has no guide": broken[1] > 0},
        f"without dropout DoG saves {helps[0]:.3f}, CFG adds {broken[0]:.3f}; the rule allows {margin}",
    )


def c7(record):
    where = dict(domain=record["config"]["domains"][0])
    dog, interval = dict(method="DoG", w=1.5), dict(method="DoG on an interval", w=1.5)
    energy = lambda method: values(record, "energy", **where, **method)
    lost, saved = energy(dog) - energy(NONE), energy(dog) - energy(interval)
    regained = resampled(share, saved, lost)
    covered = paired(record, dog, interval, "coverage", **where)
    better = {d: interval_against_all(record, d) for d in learned_domains(record)}
    rate = values(record, "out_of_domain", **where, **interval).mean()
    return over_seeds(
        record,
        regained,
        "share of DoG's loss in energy distance bought back, w = 1.5",
        {
            "DoG costs match": student(lost)[1] > 0,
            "most is bought back": regained[1] > 0.5,
            "coverage too": covered[1] > 0,
        }
        | {f"better {way}: {d}": r[2] < 1 for d, found in better.items() for way, r in found.items()},
        f"guiding only below sigma = {record['config']['interval'][1]:g} "
        f"keeps the out-of-domain rate at {rate:.3f}. What it leaves outside relative to guiding always: "
        + "; ".join(f"{d} {_ways(found)}" for d, found in better.items()),
        RESAMPLED,
    )


def interval_against_all(record, domain):
    """DoG on an interval against DoG (`left`)."""
    return left(*(family(record, m, domain=domain) for m in ("DoG on an interval", "DoG")))


def c8(record):
    found, saved, helps = helped(record)  # saved (cells, S), helps (cells,)
    right = (saved > 0) == helps[:, None]
    simple = (saved > 0) == rule_of_thumb(found)[:, None]
    agree, ahead = student(right.mean(0)), student(right.mean(0) - simple.mean(0))
    by_weight = {w: right[[r["w"] == w for r in found]].mean() for w in sorted({r["w"] for r in found})}
    gained, lost = (saved.mean(1) > 0)[helps].sum(), (saved.mean(1) < 0)[~helps].sum()
    return over_seeds(
        record,
        agree,
        "share of cells (gap, breadth, w) where the closed form tells help from harm",
        {"in three quarters": agree[1] > 0.75, "more often than a one-line rule": ahead[1] > 0},
        f"by w: {', '.join(f'{v:.0%} at {w}' for w, v in by_weight.items())}; "
        f"of {len(found)} cells {helps.sum()} are predicted to gain ({gained} do), "
        f"{(~helps).sum()} to lose ({lost} do). The rule “the gap is at most three quarters of the breadth” "
        f"is right in {simple.mean():.1%} of the cells, the closed form in {right.mean():.1%} "
        f"({ahead[0]:+.1%} [{ahead[1]:+.1%}, {ahead[2]:+.1%}]); the comparison is later than the record",
    )


def of_guide(record, guide, stage):
    """A guide's rows over w, that of no guidance first."""
    return rows(record, stage=stage, guide="none") + rows(record, stage=stage, guide=guide)


def to_ancestor(record, guide, stage="finished"):
    """What a guide leaves outside relative to the ancestor (`left`): above 1 it is worse."""
    return left(*(of_guide(record, g, stage) for g in (guide, "ancestor")))


def _ways(found):
    """What `left` found, in words."""
    return ", ".join(f"{value:.2f} {way}" for way, (value, *_) in found.items())


GUIDE_OF = {
    "CFG": "own null",
    "DoG": "ancestor",
    "autoguidance": "weaker self",
    "blurred self": "blurred self",
}


def by_method(record, name, stage="finished"):
    """The rows of `of_guide` by the name that a method of the field has elsewhere."""
    method = name.removesuffix(ON_AN_INTERVAL)
    return of_guide(record, GUIDE_OF[method] + name.removeprefix(method), stage)


def completed(record, guide):
    """The energy distance that a guide leaves of a fine-tune hardly begun, at its own weight, relative to the
    ancestor's.  -> (ratio, low, high)"""
    begun = record["config"]["stages"][-1][0]
    best = lambda g: at_own_weight(of_guide(record, g, begun), "energy", minimize="energy", budget=math.inf)
    return ratio(best(guide)["energy"], best("ancestor")["energy"])


def at_equal_w(record, guides, metric="out_of_domain", stage="finished"):
    """A metric's means at w = W, in words."""
    at = lambda g: values(record, metric, stage=stage, guide=g, w=W).mean()
    return ", ".join(f"{g} {at(g):.3f}" for g in guides)


def c9(record):
    auto, seed = to_ancestor(record, "weaker self"), to_ancestor(record, "other seed")["by area"]
    begun = {g: completed(record, g) for g in ("weaker self", "other seed", "other source")}
    parts = {f"ahead of autoguidance: {way}": r[1] > 1 for way, r in auto.items()} | {
        "ahead of autoguidance: hardly begun": begun["weaker self"][1] > 1,
        "another seed will do": 0.9 < seed[1] and seed[2] < 1.1,
        "another source will not do where hardly begun": begun["other source"][1] > 1.1,
    }
    curve = functools.partial(by_method, record)
    return over_seeds(
        record,
        auto["by area"],
        "area under the trade-off, autoguidance relative to DoG",
        parts,
        f"finished: another seed's model instead of the ancestor {seed[0]:.2f}; the field relative to DoG "
        f"{over_all_w(curve, 'DoG')}; autoguidance at equal loss of thickness "
        f"{at_equal_thickness(curve('autoguidance'), curve('DoG'))[0]:.2f}; outside at own weight "
        f"{at_own_weights(curve, ALWAYS)}; at equal w = {W} "
        f"{at_equal_w(record, ('ancestor', 'other seed', 'weaker self'))}. Hardly begun: energy distance at "
        f"its own weight relative to DoG's {', '.join(f'{g} {r[0]:.2f}' for g, r in begun.items())}",
        LOGS,
    )


def c10(record):
    """A control hurts if it is worse than the ancestor by area and at its own weight."""
    harm = {g: to_ancestor(record, g) for g in ("untrained", "random", "wrong label", "swapped")}
    itself = values(record, "energy", stage="finished", guide="itself", w=W)
    same = np.abs(itself - values(record, "energy", stage="finished", guide="none")).max()
    parts = {"itself changes nothing": same == 0}
    parts |= {
        f"worse than DoG: {name}": all(r[1] > 1 for r in found.values()) for name, found in harm.items()
    }
    return over_seeds(
        record,
        harm["untrained"]["by area"],
        "area under the trade-off, an untrained guide relative to the ancestor",
        parts,
        f"relative to the ancestor {'; '.join(f'{name} {_ways(found)}' for name, found in harm.items())}. "
        f"Out-of-domain rate at equal w = {W}: {at_equal_w(record, ('ancestor', *harm))}. "
        "An untrained network is, by its preconditioning, the exact denoiser of a broad Gaussian: enough to "
        "sharpen",
        LOGS,
    )


def c11(record):
    """Each fine-tune was stopped where held-out data are fitted best."""
    sizes = record["config"]["sizes"]
    removed, closer = outliers_removed(record), brought_closer(record)  # (sizes, S)
    per_halving = slope(sizes, -removed)
    few = of_size(record, "DoG", sizes[0])
    copied = student(at_own_weight(few, "nearest")["nearest"] - np.array(few[0]["nearest"]))
    parts = {
        "more outliers removed": per_halving[1] > 0,
        "closer to fresh points": slope(sizes, -closer)[1] > 0,
        f"no copies at {sizes[0]} points": copied[1] > -0.1,
    }
    steps = [of_size(record, "none", size)[0]["steps"] for size in sizes]
    by_size = lambda shares: ", ".join(f"{np.mean(s):.2f} at {n}" for n, s in zip(sizes, shares, strict=True))
    ends = {
        m: outliers_removed(record, m)[[0, -1]].mean(1)
        for m in FIELD
        if len(of_size(record, m, sizes[0])) > 1
    }
    return over_seeds(
        record,
        per_halving,
        "share of the outliers that DoG removes over the whole trade-off, gained per halving of the data",
        parts,
        f"removed {by_size(removed)}; by the field at {sizes[0]} and at {sizes[-1]} "
        f"{', '.join(f'{m} {few:.2f}, {many:.2f}' for m, (few, many) in ends.items())}; energy distance to "
        f"fresh points lowered by DoG at its own weight by {closer.mean(1).max():.0%} at most; stopped after "
        f"{', '.join(map(str, steps))} steps; distance to the nearest training point, relative to fresh "
        f"samples, at {sizes[0]} points: none {np.mean(few[0]['nearest']):.2f}, DoG {copied[0]:+.2f}",
    )


def c12(record):
    """In each combination of sampler and steps: DoG < CFG < none."""
    cells = sorted({(r["steps"], r["sampler"]) for r in rows(record)})
    curve = {c: functools.partial(family, record, steps=c[0], sampler=c[1]) for c in cells}
    dog = {c: left(curve[c]("DoG"), curve[c]("CFG")) for c in cells}
    cfg = {c: left(curve[c]("CFG"), curve[c]("none")[:1]) for c in cells}
    kept = {way: [c for c in cells if dog[c][way][2] < 1 and cfg[c][way][2] < 1] for way in dog[cells[0]]}
    worst = max(cells, key=lambda c: dog[c]["by area"][0])
    steps = record["config"]["steps"]
    from_here = next((n for n in steps if all(c in kept["by area"] for c in cells if c[0] >= n)), None)
    parts = {f"everywhere: {way}": len(found) == len(cells) for way, found in kept.items()}
    parts |= {f"mostly: {way}": len(found) > len(cells) / 2 for way, found in kept.items()}
    known = [m for m in ALWAYS if len(curve[cells[0]](m)) > 1]
    first = [min(known, key=lambda m: area(curve[c](m)).mean()) for c in cells]
    return over_seeds(
        record,
        dog[worst]["by area"],
        f"area under the trade-off, DoG relative to CFG, in the worst of {len(cells)} combinations "
        f"({worst[1]}, {worst[0]} steps)",
        parts,
        f"DoG < CFG < none in {', '.join(f'{len(found)} {way}' for way, found in kept.items())}; by area "
        f"with every sampler from {from_here or 'no number of'} steps on; the smallest area is that of "
        f"{', '.join(f'{m} in {first.count(m)}' for m in known)}",
        LOGS,
    )


def c18(record):
    fits = {f["stage"]: np.array(f["plane"]) for f in record["results"]["fits"]}  # (S, levels, 2)
    levels = np.array(record["config"]["levels"])

    def level(stage, low, high, column=0):
        """A weight of the plane, averaged over a range of noise levels."""
        inside = (levels >= low) & (levels <= high)
        return student(fits[stage][:, inside, column].mean(1))

    def energy(stage, method, w):
        return values(record, "energy", stage=stage, method=method, w=w)

    def excess(method, family):
        """Energy distance of a calibrated method over that of the best constant
        weight, at the worst stage."""
        ratios = []
        for stage in fits:
            tried = [r for r in rows(record, stage=stage) if r["w"] != "calibrated" and r["method"] in family]
            found = min(np.mean(r["energy"]) for r in tried)
            ratios.append(energy(stage, method, "calibrated").mean() / found)
        return max(ratios)

    stages = ("100 steps", "300 steps", "finished", "overfitted")
    gain = {s: student(energy(s, "none", 1.0) - energy(s, "plane", "calibrated")) for s in stages}
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
    cut = ", ".join(f"{gain[s][0] / energy(s, 'none', 1.0).mean():.0%} ({s})" for s in stages)
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


def c19(record):
    even, odd = HALVES
    chosen = best_points(record, on=even)
    at = lambda name, metric: np.array(chosen[name][metric])[odd]
    gain, parts = off_lines(at, dict(energy="closer", out_of_domain="fewer outside"))
    means = {n: ", ".join(f"{at(n, m).mean():.4f}" for m in ("out_of_domain", "energy")) for n in chosen}
    describe = "; ".join(f"{n} at (a, b) = {(r['a'], r['b'])}: {means[n]}" for n, r in chosen.items())
    return Finding(
        *min((gain[n, "energy"] for n in ("CFG", "DoG")), key=lambda g: g[0]),
        len(at("plane", "energy")),
        "energy distance saved by the plane over the better line",
        parts,
        f"chosen on even seeds, shown on odd ones (out-of-domain rate, energy distance): {describe}",
        f"{STUDENT} over {len(at('plane', 'energy'))} of {drawn(record)}",
    )
