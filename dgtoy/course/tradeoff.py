"""Methods compared over all their weights: equal w is not equal strength, equal cost in match is.

A family is a method's rows over w, with every metric by seed, and the row without guidance, w = 1, first.
"""

import numpy as np

from .records import HALVES

REACH = 0.03  # the rise in energy distance up to which samples are compared
CONTRACTION = 0.15  # the loss of thickness up to which samples are compared, where that is the cost
BUDGET = 0.015  # the rise allowed where each method has one weight, its own


def best_within(family, budgets, cost="energy"):
    """The lowest out-of-domain rate within a budget above the unguided cost, by seed.  -> (budgets, S)

    Between two weights of the family both are linear in w. No guidance is always within.
    """
    fraction = np.linspace(0, 1, 65)[:, None, None]

    def along(name):
        """A metric along the curve, its corners and what lies between.  -> (points, S)"""
        corners = np.array([row[name] for row in (*family, family[-1])])  # (W + 1, S); of none alone, 2
        start, end = corners[:-1], corners[1:]
        between = start + fraction * (end - start)  # (65, W, S)
        return between.reshape(-1, corners.shape[1])

    rise, value = along(cost) - np.array(family[0][cost]), along("out_of_domain")
    inside = rise[None] <= np.asarray(budgets)[:, None, None] + 1e-12  # (budgets, points, S)
    return np.where(inside, value, np.inf).min(1)


def area(family, cost="energy", reach=REACH):
    """The mean of `best_within` over budgets from 0 to `reach`: the area under the trade-off.  -> (S,)"""
    return best_within(family, np.linspace(0, reach, 31), cost=cost).mean(0)


def with_contraction(family):
    """The same rows with "contraction", 1 - thickness: the cost that energy distance hardly sees."""
    return [row | dict(contraction=[1 - t for t in row["thickness"]]) for row in family]


def area_by_thickness(family):
    """The `area` with the loss of thickness as the cost, up to CONTRACTION.  -> (S,)"""
    return area(with_contraction(family), cost="contraction", reach=CONTRACTION)


def at_equal_cost(family):
    """The area under the trade-off where both costs are bounded: the rise in energy distance by shares of
    REACH, the loss of thickness by the same shares of CONTRACTION.  -> (S,)"""
    rise = lambda row: np.array(row["energy"]) - family[0]["energy"]
    loss = lambda row: np.array(family[0]["thickness"]) - row["thickness"]
    both = [row | dict(cost=np.maximum(rise(row) / REACH, loss(row) / CONTRACTION)) for row in family]
    return area(both, cost="cost", reach=1.0)


def at_own_weight(family, *metrics, minimize="out_of_domain", cost="energy", budget=BUDGET):
    """Metrics at the weight that is best on the other half of the seeds.  -> {"w" and each metric: (S,)}

    Best: the lowest mean of `minimize` among weights whose mean cost rises by at most `budget`.
    """
    found = {name: np.empty(len(family[0][cost])) for name in ("w", *metrics)}
    for choose, show in (HALVES, HALVES[::-1]):
        mean = lambda row, name: np.mean(np.array(row[name])[choose])
        inside = [r for r in family if mean(r, cost) <= mean(family[0], cost) + budget]
        own = min(inside, key=lambda r: mean(r, minimize))
        found["w"][show] = own["w"]
        for name in metrics:
            found[name][show] = np.array(own[name])[show]
    return found
