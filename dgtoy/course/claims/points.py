"""The rules that judge the claims about points. Metric and weight were fixed before the runs."""

import numpy as np

from ..experiments.gap import helped
from ..experiments.plane import best_points
from ..experiments.size import saved
from ..intervals import RESAMPLED, STUDENT, resampled, student
from ..records import HALVES, rows, values
from .finding import Finding, drawn, over_seeds

W = 1.25  # the weight at which claims compare methods
NONE, CFG, DOG = dict(method="none"), dict(method="CFG", w=W), dict(method="DoG", w=W)


def paired(record, better, worse, metric="out_of_domain", **where):
    """metric(worse) - metric(better), paired by seed, so above 0 if `better` is.  -> (mean, low, high)"""
    return student(values(record, metric, **where, **worse) - values(record, metric, **where, **better))


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
    return over_seeds(
        record,
        student(worse.mean(0)),
        "excess error, null minus labelled branch",
        parts,
        f"null is the worse one at {sum(at)} of {len(sizes)} sizes, by {few:.3f} at {sizes[0]} points and "
        f"{many:.3f} at {sizes[-1]}; "
        f"on the source its error is {np.median(lost):.0f} times the pre-trained model's",
    )


def c5(record):
    domains = record["config"]["domains"]
    gain = {d: paired(record, DOG, CFG, domain=d) for d in domains}
    cfg_helps = {d: paired(record, CFG, NONE, domain=d)[1] > 0 for d in domains}
    parts = {d: gain[d][1] > 0 and cfg_helps[d] for d in domains}
    none, cfg, dog = (
        values(record, "out_of_domain", domain=domains[0], **m).mean() for m in (NONE, CFG, DOG)
    )
    return over_seeds(
        record,
        gain[domains[0]],
        f"out-of-domain rate, CFG minus DoG, w = {W}",
        parts,
        f"two moons: none {none:.3f}, CFG {cfg:.3f}, DoG {dog:.3f}; "
        f"ordered so in {sum(parts.values())} of {len(domains)} domains",
    )


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
    rate = values(record, "out_of_domain", **where, **interval).mean()
    return over_seeds(
        record,
        regained,
        "share of DoG's loss in energy distance bought back, w = 1.5",
        {
            "DoG costs match": student(lost)[1] > 0,
            "most is bought back": regained[1] > 0.5,
            "coverage too": covered[1] > 0,
        },
        f"guiding only below sigma = {record['config']['interval'][1]:g} "
        f"keeps the out-of-domain rate at {rate:.3f}",
        RESAMPLED,
    )


def c8(record):
    found, saved, helps = helped(record)  # saved (cells, S), helps (cells,)
    right = (saved > 0) == helps[:, None]
    agree = student(right.mean(0))
    by_weight = {w: right[[r["w"] == w for r in found]].mean() for w in sorted({r["w"] for r in found})}
    gained, lost = (saved.mean(1) > 0)[helps].sum(), (saved.mean(1) < 0)[~helps].sum()
    return over_seeds(
        record,
        agree,
        "share of cells (gap, breadth, w) where the closed form tells help from harm",
        {"in three quarters": agree[1] > 0.75},
        f"by w: {', '.join(f'{v:.0%} at {w}' for w, v in by_weight.items())}; "
        f"of {len(found)} cells {helps.sum()} are predicted to gain ({gained} do), "
        f"{(~helps).sum()} to lose ({lost} do)",
    )


def over_ancestor(record, guide, metric, stage):
    """By how much a guide's samples are worse than the ancestor's.  -> (mean, low, high)"""
    ancestor, other = dict(guide="ancestor", w=W), dict(guide=guide, w=W)
    return paired(record, ancestor, other, metric, stage=stage)


def c9(record):
    auto, seed = (
        over_ancestor(record, g, "out_of_domain", "finished") for g in ("weaker self", "other seed")
    )
    strangers = ("weaker self", "other seed", "other source")
    unfinished = {g: over_ancestor(record, g, "energy", "unfinished") for g in strangers}
    parts = {
        "beats autoguidance": auto[1] > 0,
        "another seed will do": abs(seed[0]) < 0.01,
        "beats autoguidance, unfinished": unfinished["weaker self"][1] > 0,
    }
    return over_seeds(
        record,
        auto,
        f"out-of-domain rate, autoguidance minus DoG, w = {W}",
        parts,
        f"another seed's model instead of the ancestor: {seed[0]:+.4f}; unfinished, in energy distance: "
        f"autoguidance {unfinished['weaker self'][0]:+.3f}, another seed {unfinished['other seed'][0]:+.3f}, "
        f"another source {unfinished['other source'][0]:+.3f}",
    )


def c10(record):
    """A control hurts if its samples are worse than the ancestor's by out-of-domain
    rate or by energy distance."""
    harm = {}
    for guide in ("untrained", "random", "wrong label", "swapped"):
        found = [over_ancestor(record, guide, m, "finished") for m in ("out_of_domain", "energy")]
        harm[guide] = max(found, key=lambda f: f[1])
    itself = values(record, "energy", stage="finished", guide="itself", w=W)
    same = np.abs(itself - values(record, "energy", stage="finished", guide="none")).max()
    parts = {"itself changes nothing": same == 0} | {f"{n} hurts": v[1] > 0 for n, v in harm.items()}
    return over_seeds(
        record,
        harm["untrained"],
        f"harm of an untrained guide against the ancestor, w = {W}",
        parts,
        "; ".join(f"{n} {v[0]:+.3f}" for n, v in harm.items())
        + ". An untrained network is, by its preconditioning, the exact denoiser of a "
        "broad Gaussian: enough to sharpen a finished fine-tune",
    )


def c11(record):
    sizes, gain = record["config"]["sizes"], np.array(saved(record, "DoG"))  # (sizes, S)
    per_halving = slope(sizes, -gain)
    ends = ", ".join(f"{np.mean(g):.3f} at {s}" for s, g in zip(sizes, gain, strict=True))
    return over_seeds(
        record,
        per_halving,
        f"gain in out-of-domain rate per halving of the data, w = {W}",
        {"grows": per_halving[1] > 0},
        f"gain: {ends}",
    )


def c12(record):
    cells = sorted({(r["sampler"], r["steps"]) for r in rows(record)})
    none, cfg, dog = (dict(method=m) for m in ("none", "CFG", "DoG"))
    gaps, kept = [], 0
    for sampler, steps in cells:
        where = dict(sampler=sampler, steps=steps)
        gaps.append(paired(record, dog, cfg, **where))
        kept += gaps[-1][1] > 0 and paired(record, cfg, none, **where)[1] > 0
    return over_seeds(
        record,
        min(gaps, key=lambda g: g[0]),
        f"smallest out-of-domain gap, CFG minus DoG, w = {W}",
        {"everywhere": kept == len(cells), "mostly": kept > len(cells) / 2},
        f"DoG < CFG < none in {kept} of {len(cells)} combinations of sampler and steps",
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
        "domain unfinished, a* above 1": above[1] > 1,
        "classes unfinished, b* above 1": classes[1] > 1,
        "finished, about 1": abs(done[0] - 1) < 0.1,
        "overfitted, below 1": below[2] < 1,
        "completes": gain["100 steps"][1] > 0 and gain["300 steps"][1] > 0,
        "restrains": gain["overfitted"][1] > 0,
        "DoG without search within 10% of search at every stage": dog <= 1.1,
        "plane without search within 10% of search at every stage": plane <= 1.1,
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
