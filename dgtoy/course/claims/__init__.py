"""The claims and the rules that judge them.

A rule is a function of one record. It returns the number that the claim is about, its 95% interval and a verdict:
"holds", "holds in part" or "fails", by the parts of the claim. Metric and weight were fixed before the runs;
book/claims.md says which rules changed after a first look.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from ...metrics import bootstrap
from ..experiments.plane import best
from ..records import row, rows
from .finding import Finding
from .images import c13, c14, c16, c17, c18_images, c19_images
from .scale import c15, c20

W = 1.25  # the weight at which claims compare methods


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim in words, the experiment that tests it and the rule that judges its record."""

    id: str
    text: str
    experiment: str
    rule: Callable
    paper: str = "–"


def paired(record, better, worse, metric="out_of_domain", where=None):
    """Bootstrap of metric(worse) - metric(better), seed by seed: positive where `better` is better.  -> (mean, low, high)"""
    where = where or {}
    return bootstrap(
        np.subtract(row(record, **where, **worse)[metric], row(record, **where, **better)[metric])
    )


def _seeds(record):
    return len(record["seeds"])


def _mean(r, metric):
    return float(np.mean(r[metric]))


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
    )


def c2(record):
    found = rows(record, claim="C2")
    value, low, high = bootstrap([r["guided"] for r in found])
    floor = max(r["floor"] for r in found)
    return Finding(
        value,
        low,
        high,
        len(found),
        "W1 to the tilted density, in its std",
        {"far above the floor": low > 3 * floor},
        f"without guidance the same sampler is within {floor:.2g}; for Gaussians the two stds differ in closed form",
    )


def c3(record):
    found = rows(record, claim="C3")
    errors = [
        max(abs(r[f"found_{k}"] / r[f"predicted_{k}"] - 1) for k in ("std", "overshoot")) for r in found
    ]
    value, low, high = bootstrap(errors)
    return Finding(
        value,
        low,
        high,
        len(found),
        "relative error of end std and mean",
        {"within 1%": max(errors) < 0.01},
        f"worst direction {max(errors):.2g}; broad sources contract, narrow ones overshoot",
    )


def c4(record):
    sizes = record["config"]["sizes"]
    get = lambda branch: np.array([row(record, size=s, branch=branch)["excess"] for s in sizes])
    worse = get("null branch on the target") - get("labelled branch on its class")  # (sizes, S)
    lost = get("null branch on the source") / get("pre-trained on the source")
    value, low, high = bootstrap(worse.mean(0))
    at = [bootstrap(w)[1] > 0 for w in worse]
    slope = lambda y: bootstrap([np.polyfit(np.log2(sizes), col, 1)[0] for col in y.T])
    parts = {
        "null is worse at every size": all(at),
        "the source is lost": bool(np.min(lost) > 1),
        "the gap grows as data shrinks": slope(worse)[2] < 0,
        "the loss grows as data shrinks": slope(lost)[2] < 0,
    }
    return Finding(
        value,
        low,
        high,
        _seeds(record),
        "excess error, null minus labelled branch",
        parts,
        f"null is the worse one at {sum(at)} of {len(sizes)} sizes, by {worse[0].mean():.3f} at {sizes[0]} points and {worse[-1].mean():.3f} "
        f"at {sizes[-1]}; on the source its error is {np.median(lost):.0f} times the pre-trained model's",
    )


def c5(record):
    held, first = [], None
    for name in record["config"]["domains"]:
        dog_cfg = paired(record, dict(method="DoG", w=W), dict(method="CFG", w=W), where=dict(domain=name))
        cfg_none = paired(record, dict(method="CFG", w=W), dict(method="none"), where=dict(domain=name))
        held.append(dog_cfg[1] > 0 and cfg_none[1] > 0)
        first = first or dog_cfg
    rates = [
        _mean(row(record, domain=record["config"]["domains"][0], method=m, **k), "out_of_domain")
        for m, k in (("none", {}), ("CFG", dict(w=W)), ("DoG", dict(w=W)))
    ]
    return Finding(
        *first,
        _seeds(record),
        f"out-of-domain rate, CFG minus DoG, w = {W}",
        {n: h for n, h in zip(record["config"]["domains"], held, strict=True)},
        f"two moons: none {rates[0]:.3f}, CFG {rates[1]:.3f}, DoG {rates[2]:.3f}; ordered so in {sum(held)} of {len(held)} domains",
    )


def c6(record):
    margin = 0.01
    pair = bootstrap(
        np.subtract(
            row(record, dropout=0.0, method="DoG", w=W)["out_of_domain"],
            row(record, dropout=0.1, method="DoG", w=W)["out_of_domain"],
        )
    )
    helps = paired(record, dict(method="DoG", w=W), dict(method="none"), where=dict(dropout=0.0))
    broken = paired(record, dict(method="none"), dict(method="CFG", w=W), where=dict(dropout=0.0))
    return Finding(
        *pair,
        _seeds(record),
        f"out-of-domain rate of DoG, dropout 0 minus 0.1, w = {W}",
        {"as good": pair[2] < margin, "helps": helps[1] > 0, "CFG has no guide": broken[1] > 0},
        f"without dropout DoG saves {helps[0]:.3f}, CFG adds {broken[0]:.3f}; the rule allows {margin}",
    )


def c7(record):
    where = dict(domain=record["config"]["domains"][0])
    w = 1.5
    dearer = paired(record, dict(method="none"), dict(method="DoG", w=w), "energy", where)
    interval = dict(method="DoG on an interval", w=w)
    back = paired(record, interval, dict(method="DoG", w=w), "energy", where)
    covered = paired(record, dict(method="DoG", w=w), interval, "coverage", where)
    share = back[0] / dearer[0]
    rate = _mean(row(record, **where, **interval), "out_of_domain")
    return Finding(
        share,
        back[1] / dearer[0],
        back[2] / dearer[0],
        _seeds(record),
        f"share of DoG's loss in energy distance bought back, w = {w}",
        {
            "DoG costs match": dearer[1] > 0,
            "most is bought back": back[1] / dearer[0] > 0.5,
            "coverage too": covered[1] > 0,
        },
        f"guiding only below sigma = {record['config']['interval'][1]:g} keeps the out-of-domain rate at {rate:.3f}",
    )


def c8(record):
    found = rows(record, method="DoG")
    saved = np.array(
        [
            np.subtract(
                row(record, gap=r["gap"], breadth=r["breadth"], method="none")["out_of_domain"],
                r["out_of_domain"],
            )
            for r in found
        ]
    )
    helps = np.array([r["predicted"] < 0.01 for r in found])  # (cells,); saved (cells, S)
    agree = bootstrap(((saved > 0) == helps[:, None]).mean(0))
    weights = sorted({r["w"] for r in found})
    by_w = ", ".join(
        f"{((saved > 0) == helps[:, None])[[r['w'] == w for r in found]].mean():.0%} at {w}" for w in weights
    )
    return Finding(
        *agree,
        _seeds(record),
        "share of cells (gap, breadth, w) where the closed form tells help from harm",
        {"in three quarters": agree[1] > 0.75},
        f"by w: {by_w}; of {len(found)} cells {int(helps.sum())} are predicted to gain ({int((saved.mean(1) > 0)[helps].sum())} do), "
        f"{int((~helps).sum())} to lose ({int((saved.mean(1) < 0)[~helps].sum())} do)",
    )


def c9(record):
    over = lambda guide, stage, metric: paired(
        record, dict(guide="ancestor", w=W), dict(guide=guide, w=W), metric, dict(stage=stage)
    )
    auto, seed = (
        over("weaker self", "finished", "out_of_domain"),
        over("other seed", "finished", "out_of_domain"),
    )
    unfinished = {g: over(g, "unfinished", "energy") for g in ("weaker self", "other seed", "other source")}
    parts = {
        "beats autoguidance": auto[1] > 0,
        "another seed will do": abs(seed[0]) < 0.01,
        "beats autoguidance, unfinished": unfinished["weaker self"][1] > 0,
    }
    return Finding(
        *auto,
        _seeds(record),
        f"out-of-domain rate, autoguidance minus DoG, w = {W}",
        parts,
        f"another seed's model instead of the ancestor: {seed[0]:+.4f}; unfinished, in energy distance: autoguidance "
        f"{unfinished['weaker self'][0]:+.3f}, another seed {unfinished['other seed'][0]:+.3f}, another source {unfinished['other source'][0]:+.3f}",
    )


def c10(record):
    """A control hurts if its samples are worse than the ancestor's by out-of-domain rate or by energy distance."""

    def worse(guide):
        found = [
            paired(record, dict(guide="ancestor", w=W), dict(guide=guide, w=W), m, dict(stage="finished"))
            for m in ("out_of_domain", "energy")
        ]
        return max(found, key=lambda f: f[1])

    harm = {n: worse(n) for n in ("untrained", "random", "wrong label", "swapped")}
    same = np.abs(
        np.subtract(
            row(record, stage="finished", guide="itself", w=W)["energy"],
            row(record, stage="finished", guide="none")["energy"],
        )
    ).max()
    parts = {"itself changes nothing": same == 0} | {f"{n} hurts": v[1] > 0 for n, v in harm.items()}
    return Finding(
        *harm["untrained"],
        _seeds(record),
        f"harm of an untrained guide against the ancestor, w = {W}",
        parts,
        "; ".join(f"{n} {v[0]:+.3f}" for n, v in harm.items())
        + ". An untrained network is, by its preconditioning, the exact denoiser of a "
        "broad Gaussian: enough to sharpen a finished fine-tune",
    )


def c11(record):
    sizes = record["config"]["sizes"]
    gain = np.array(
        [
            np.subtract(
                row(record, size=s, method="none")["out_of_domain"],
                row(record, size=s, method="DoG")["out_of_domain"],
            )
            for s in sizes
        ]
    )  # (sizes, S)
    slope = bootstrap([-np.polyfit(np.log2(sizes), g, 1)[0] for g in gain.T])
    ends = ", ".join(f"{np.mean(g):.3f} at {s}" for s, g in zip(sizes, gain, strict=True))
    return Finding(
        *slope,
        _seeds(record),
        f"gain in out-of-domain rate per halving of the data, w = {W}",
        {"grows": slope[1] > 0},
        f"gain: {ends}",
    )


def c12(record):
    cells = {(r["sampler"], r["steps"]) for r in rows(record)}
    kept, gaps = 0, []
    for sampler, steps in sorted(cells):
        where = dict(sampler=sampler, steps=steps)
        dog_cfg = paired(record, dict(method="DoG"), dict(method="CFG"), where=where)
        cfg_none = paired(record, dict(method="CFG"), dict(method="none"), where=where)
        kept += dog_cfg[1] > 0 and cfg_none[1] > 0
        gaps.append(dog_cfg)
    worst = min(gaps, key=lambda g: g[0])
    return Finding(
        *worst,
        _seeds(record),
        f"smallest out-of-domain gap, CFG minus DoG, w = {W}",
        {"everywhere": kept == len(cells), "mostly": kept > len(cells) / 2},
        f"DoG < CFG < none in {kept} of {len(cells)} combinations of sampler and steps",
    )


def c18(record):
    def level(stage, low, high, what="plane", column=0):  # mean weight by seed
        fit = next(f for f in record["results"]["fits"] if f["stage"] == stage)
        keep = [i for i, s in enumerate(record["config"]["levels"]) if low <= s <= high]
        return bootstrap(np.array(fit[what])[:, keep, column].mean(1))

    above, classes = level("100 steps", 1, 8), level("300 steps", 1, 8, column=1)
    done, below = level("finished", 0.1, 8), level("overfitted", 0, 0.1)
    energy = lambda stage, method, w: np.array(row(record, stage=stage, method=method, w=w)["energy"])
    stages = [f["stage"] for f in record["results"]["fits"]]
    gain = lambda stage: bootstrap(energy(stage, "none", 1.0) - energy(stage, "plane", "calibrated"))
    search = lambda stage, methods: min(
        _mean(r, "energy")
        for r in rows(record, stage=stage)
        if r["w"] != "calibrated" and r["method"] in methods
    )
    excess = {
        m: max(
            energy(s, m, "calibrated").mean()
            / search(s, ("none", "CFG", "DoG") if m == "plane" else ("none", m))
            for s in stages
        )
        for m in ("DoG", "plane")
    }
    parts = {
        "domain unfinished, a* above 1": above[1] > 1,
        "classes unfinished, b* above 1": classes[1] > 1,
        "finished, about 1": abs(done[0] - 1) < 0.1,
        "overfitted, below 1": below[2] < 1,
        "completes": gain("100 steps")[1] > 0 and gain("300 steps")[1] > 0,
        "restrains": gain("overfitted")[1] > 0,
        "DoG without search within 10% of search at every stage": excess["DoG"] <= 1.1,
        "plane without search within 10% of search at every stage": excess["plane"] <= 1.1,
    }
    cut = {
        s: gain(s)[0] / energy(s, "none", 1.0).mean()
        for s in ("100 steps", "300 steps", "finished", "overfitted")
    }
    return Finding(
        *above,
        _seeds(record),
        "a* of a fine-tune after 100 steps (sigma 1 to 8)",
        parts,
        f"after 300 steps b* is {classes[0]:.1f}; finished a* {done[0]:.2f}; overfitted (sigma up to 0.1) {below[0]:.2f}. The calibrated plane cuts the energy "
        f"distance by {', '.join(f'{v:.0%} ({k})' for k, v in cut.items())}; against the best constant w found by search, calibrated DoG is at "
        f"worst {excess['DoG']:.2f} times, the plane {excess['plane']:.2f} times",
    )


def c19(record):
    seeds = record["seeds"]
    chosen, held = best(record, on=seeds[::2]), seeds[1::2]
    at = {
        name: {m: np.array(row(record, a=a, b=b)[m])[held] for m in ("energy", "out_of_domain")}
        for name, (a, b) in chosen.items()
    }
    gain = {
        (n, m): bootstrap(at[n][m] - at["plane"][m])
        for n in ("CFG", "DoG")
        for m in ("energy", "out_of_domain")
    }
    parts = {
        f"{'closer' if m == 'energy' else 'fewer outside'} than {n}": g[1] > 0 for (n, m), g in gain.items()
    }
    describe = "; ".join(
        f"{n} at (a, b) = {chosen[n]}: {at[n]['out_of_domain'].mean():.4f}, {at[n]['energy'].mean():.4f}"
        for n in at
    )
    return Finding(
        *min((gain[n, "energy"] for n in ("CFG", "DoG")), key=lambda g: g[0]),
        len(held),
        "energy distance saved by the plane over the better line",
        parts,
        f"chosen on even seeds, shown on odd ones (out-of-domain rate, energy distance): {describe}",
    )


CLAIMS = (
    Claim(
        "C1",
        "DoG is the conditional score plus (w − 1) times CFG's class term and a domain term",
        "exact",
        c1,
        "sec. 3: derived",
    ),
    Claim("C2", "Guided sampling does not sample the tilted density", "exact", c2),
    Claim(
        "C3",
        "Per direction DoG multiplies the std by (s_T/s_S)^(w−1) and overshoots the mean as the closed form says",
        "exact",
        c3,
    ),
    Claim(
        "C4",
        "Fine-tuning forgets: the null branch is the worse estimate and has lost the source, more so with less data",
        "forgetting",
        c4,
        "sec. 3: argued",
    ),
    Claim(
        "C5",
        "At equal w: out-of-domain rate DoG < CFG < none",
        "transfer",
        c5,
        "19.6% better FID than standard fine-tuning",
    ),
    Claim(
        "C6",
        "DoG works as well on fine-tunes made without label dropout",
        "dropout",
        c6,
        "no training needed",
    ),
    Claim("C7", "The price is diversity; an interval buys most of it back", "transfer", c7),
    Claim("C8", "The closed form tells where DoG helps and where it hurts", "gap", c8),
    Claim(
        "C9",
        "The ancestor guides better than a weaker self; a stranger of the same source will do",
        "guides",
        c9,
    ),
    Claim(
        "C10",
        "Controls: itself changes nothing; untrained, wrongly labelled and swapped guides hurt",
        "guides",
        c10,
    ),
    Claim("C11", "The gain grows as target data shrinks", "size", c11),
    Claim("C12", "The ordering holds across samplers and numbers of steps", "steps", c12),
    Claim(
        "C18",
        "Held-out data give the weight: above 1 unfinished, about 1 finished, below 1 overfitted; no search needed",
        "calibration",
        c18,
    ),
    Claim("C19", "Points of the plane off both lines beat CFG and DoG at once", "plane", c19),
    Claim(
        "C13",
        "Small images, target inside the source, each at its best w: Fréchet distance DoG < CFG < none; precision and coverage up",
        "images",
        c13,
        "19.6% better FID than standard fine-tuning",
    ),
    Claim(
        "C14",
        "Small images far from the source: DoG overshoots and harms; inside, the closed form tells which directions sharpen",
        "images_gap",
        c14,
    ),
    Claim(
        "C15",
        "DiT at scale: the paper's tables on a DiT trained here, its own weight",
        "scale",
        c15,
        "19.6% better FID than standard fine-tuning",
    ),
    Claim(
        "C16",
        "LoRA fine-tunes: the guide is the same network with the adapter off, no second copy",
        "images_tuning",
        c16,
        "asked by reviewers",
    ),
    Claim(
        "C17",
        "DogFit: the field learned in training gives DoG's quality in one call a step",
        "images_dogfit",
        c17,
    ),
    Claim(
        "C20",
        "The closed form beyond Gaussians: along generalized eigen-directions DoG changes the std by (s_T/s_S)^(w−1)",
        "why",
        c20,
    ),
    Claim(
        "C18 images",
        "Small images: held-out calibration finds the weight without a search",
        "images_plane",
        c18_images,
    ),
    Claim(
        "C19 images",
        "Small images: a point off both lines beats CFG and DoG at once",
        "images_plane",
        c19_images,
    ),
)
