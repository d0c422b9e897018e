"""The rules of C5 to C7, C11, C12 and C19, and what all rules on points share.

C5, C7, C9, C10 and C12 compare methods over the whole trade-off and each at its own weight (`left`), with
the numbers at equal w beside them.
"""

import functools

import numpy as np

from ..experiments.plane import best_points
from ..experiments.size import brought_closer, outliers_removed
from ..intervals import LOGS, RESAMPLED, STUDENT, ratio, resampled, student
from ..lab import ALWAYS, FIELD
from ..records import HALVES, family, rows, values
from ..tradeoff import area, area_by_thickness, at_own_weight
from .finding import Finding, drawn, either, listed, over_seeds

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
    return ratio(area_by_thickness(one), area_by_thickness(other))


def over_all_w(curve, rival):
    """The area of every method of the field relative to a rival's, in words.

    curve: name -> its rows, the one without guidance first.
    """
    return listed({m: ratio(area(curve(m)), area(curve(rival))) for m in FIELD if m != rival})


def at_own_weights(curve, names):
    """The out-of-domain rate of methods, each at its own weight, in words."""
    own = {name: at_own_weight(curve(name), "out_of_domain") for name in names}
    return ", ".join(f"{m} {r['out_of_domain'].mean():.3f} (w = {either(r['w'])})" for m, r in own.items())


def slope(x, y):
    """The slope of y against log2 x, seed by seed.  x (n,), y (n, S) -> (mean, low, high)"""
    return student([np.polyfit(np.log2(x), column, 1)[0] for column in np.array(y).T])


def share(part, whole):
    """mean(part) / mean(whole) over the last axis, for `resampled`."""
    return part.mean(-1) / whole.mean(-1)


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
        f"{d}: area {dog[d]['by area'][0]:.2f}, at equal loss of thickness "
        f"{at_equal_thickness(curve[d]('DoG'), curve[d]('CFG'))[0]:.2f}; outside at own weight none "
        f"{outside(d, NONE):.3f}, {at_own_weights(curve[d], ('CFG', 'DoG'))}; at w = {W} CFG "
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
    curve = {d: functools.partial(family, record, domain=d) for d in learned_domains(record)}
    better = {d: left(curve[d]("DoG on an interval"), curve[d]("DoG")) for d in curve}
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
        + "; ".join(f"{d} {ways(found)}" for d, found in better.items()),
        RESAMPLED,
    )


def ways(found):
    """What `left` found, in words."""
    return ", ".join(f"{value:.2f} {way}" for way, (value, *_) in found.items())


def c11(record):
    """Each fine-tune was stopped where held-out data are fitted best."""
    sizes = record["config"]["sizes"]
    removed, closer = outliers_removed(record), brought_closer(record)  # (sizes, S)
    per_halving = slope(sizes, -removed)
    few = family(record, "DoG", size=sizes[0])
    copied = student(at_own_weight(few, "nearest")["nearest"] - np.array(few[0]["nearest"]))
    parts = {
        "more outliers removed": per_halving[1] > 0,
        "closer to fresh points": slope(sizes, -closer)[1] > 0,
        f"less than a tenth nearer to the training points at {sizes[0]} of them": copied[1] > -0.1,
    }
    steps = [family(record, "none", size=size)[0]["steps"] for size in sizes]
    by_size = lambda shares: ", ".join(f"{np.mean(s):.2f} at {n}" for n, s in zip(sizes, shares, strict=True))
    ends = {m: outliers_removed(record, m)[[0, -1]].mean(1) for m in FIELD}
    return over_seeds(
        record,
        per_halving,
        "share of the outliers that DoG removes over the whole trade-off, gained per halving of the data",
        parts,
        f"removed {by_size(removed)}; by the field at {sizes[0]} and at {sizes[-1]} "
        f"{', '.join(f'{m} {few:.2f}, {many:.2f}' for m, (few, many) in ends.items())}; energy distance to "
        f"fresh points lowered by DoG at its own weight by {closer.mean(1).max():.0%} at most; stopped after "
        f"{', '.join(map(str, steps))} steps; distance to the nearest training point, relative to fresh "
        f"samples, at {sizes[0]} points: none {np.mean(few[0]['nearest']):.2f}, DoG {copied[0]:+.2f} "
        f"[{copied[1]:+.2f}, {copied[2]:+.2f}] (copies would be at 0)",
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
    first = [min(ALWAYS, key=lambda m: area(curve[c](m)).mean()) for c in cells]
    return over_seeds(
        record,
        dog[worst]["by area"],
        f"area under the trade-off, DoG relative to CFG, in the worst of {len(cells)} combinations "
        f"({worst[1]}, {worst[0]} steps)",
        parts,
        f"DoG < CFG < none in {', '.join(f'{len(found)} {way}' for way, found in kept.items())}; by area "
        f"with every sampler {f'from {from_here} steps on' if from_here else 'at no number of steps'}; the "
        f"smallest area is that of {', '.join(f'{m} in {first.count(m)}' for m in ALWAYS)}",
        LOGS,
    )


def c19(record):
    """What the best point of the plane, off both lines, gains over the best point of each."""
    even, odd = HALVES
    chosen = best_points(record, on=even)
    at = lambda name, metric: np.array(chosen[name][metric])[odd]
    better = dict(energy="closer", out_of_domain="fewer outside")
    gain = {(m, line): student(at(line, m) - at("plane", m)) for line in ("CFG", "DoG") for m in better}
    parts = {f"{better[m]} than {line}": low > 0 for (m, line), (_, low, _) in gain.items()}
    means = {n: ", ".join(f"{at(n, m).mean():.4f}" for m in ("out_of_domain", "energy")) for n in chosen}
    describe = "; ".join(f"{n} at (a, b) = {(r['a'], r['b'])}: {means[n]}" for n, r in chosen.items())
    return Finding(
        *min((gain["energy", line] for line in ("CFG", "DoG")), key=lambda g: g[0]),
        len(at("plane", "energy")),
        "energy distance saved by the plane over the better line",
        parts,
        f"chosen on even seeds, shown on odd ones (out-of-domain rate, energy distance): {describe}",
        f"{STUDENT} over {len(at('plane', 'energy'))} of {drawn(record)}",
    )
