"""The rules of C1 to C3 and C8: what is sampled, and what the closed form tells of it, on exact worlds."""

import collections

import numpy as np

from ..experiments.gap import helped, rule_of_thumb
from ..intervals import student
from ..records import rows
from .finding import Finding, listed, over_seeds


def c1(record):
    errors = np.array([r["error"] for r in rows(record, claim="C1")])
    least, most = float(errors.min()), float(errors.max())
    return Finding(
        most,
        least,
        most,
        len(errors),
        "largest relative error (range over mixtures)",
        {"to 1e-10": most < 1e-10},
        "CFG's term and the domain term add up to DoG on every random mixture",
        f"range over {len(errors)} random mixtures",
    )


def c2(record):
    found = rows(record, claim="C2")
    distance = student([r["guided"] for r in found])
    floor = float(np.max([r["floor"] for r in found]))
    return over_seeds(
        record,
        distance,
        "W1 to the tilted density, in its std",
        {"far above the floor": distance[1] > 3 * floor},
        f"without guidance the same sampler is within {floor:.2g}; "
        "for Gaussians the two stds differ in closed form",
    )


def c3(record):
    """Each problem has a direction with a broader source and one with a narrower, and counts by its worst."""
    found, miss = rows(record, claim="C3"), {seed: [] for seed in record["seeds"]}
    for r in found:
        miss[r["seed"]] += [
            abs(r[f"found_{what}"] / r[f"predicted_{what}"] - 1) for what in ("std", "overshoot")
        ]
    errors = [float(np.max(of_problem)) for of_problem in miss.values()]
    kinds = {
        "broader sources": [r for r in found if r["ratio"] > 1],
        "narrower ones": [r for r in found if r["ratio"] < 1],
    }
    ends = {
        name: f"std × {np.median([r['found_std'] for r in of_kind]):.2f}, mean × "
        f"{np.median([r['found_overshoot'] for r in of_kind]):.2f}"
        for name, of_kind in kinds.items()
    }
    return over_seeds(
        record,
        student(errors),
        "relative error of end std and mean",
        {"within 1%": max(errors) < 0.01},
        f"worst direction {max(errors):.2g}; medians "
        + "; ".join(f"of {len(kinds[name])} {name} {end}" for name, end in ends.items()),
    )


def c8(record):
    found, saved, helps = helped(record)  # (cells, S) both
    right = (saved > 0) == helps
    simple = (saved > 0) == rule_of_thumb(found)[:, None]
    agree, ahead = student(right.mean(0)), student(right.mean(0) - simple.mean(0))
    by_weight = {w: right[[r["w"] == w for r in found]].mean() for w in sorted({r["w"] for r in found})}
    gained, lost = (saved > 0)[helps].sum(), (saved < 0)[~helps].sum()
    regimes = collections.Counter(r["regime"] for r in record["results"]["regimes"])
    return over_seeds(
        record,
        agree,
        "share of cells (gap, breadth, w) where the closed form tells help from harm",
        {"in three quarters": agree[1] > 0.75, "more often than a one-line rule": ahead[1] > 0},
        f"by w: {', '.join(f'{v:.0%} at {w}' for w, v in by_weight.items())}; "
        f"of {helps.size} cases {helps.sum()} are predicted to gain ({gained} do), "
        f"{(~helps).sum()} to lose ({lost} do). The rule “the gap is at most three quarters of the breadth” "
        f"is right in {simple.mean():.1%} of the cells, the closed form in {right.mean():.1%} "
        f"({ahead[0]:+.1%} [{ahead[1]:+.1%}, {ahead[2]:+.1%}]). Fine-tunes by held-out data: "
        f"{listed(regimes, 'd')} of {regimes.total()} places",
    )
