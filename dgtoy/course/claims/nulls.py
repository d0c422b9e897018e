"""The rules of C21 to C23. Rules, weights, widths and worlds were committed before the record existed.

Where a fine-tune is finished or only detail is missing, methods are compared by the area under the trade-off
of out-of-domain rate against energy distance; where it is not, by the energy distance at the weight that is
best on the other half of the seeds.
"""

import functools

from ..experiments.nulls import BETTER, family
from ..intervals import LOGS, ratio
from ..records import held_out
from ..tradeoff import area, area_by_thickness
from .finding import listed, over_seeds

WIDE, SELF = "Gaussian, std 2", "blurred self, b = 0.4"
DONE = ("detail missing", "finished")  # stages where guidance can only sharpen


def against(record, guide, rival, **where):
    """What a guide leaves, relative to a rival: below 1 where it is better.  -> (ratio, low, high)"""
    curves = [family(record, g, **where) for g in (guide, rival)]
    left = area if where["stage"] in DONE else functools.partial(held_out, metric="energy")
    return ratio(*map(left, curves))


def at_equal_thickness(record, guide, rival, **where):
    """`against`, with the loss of thickness as the cost in place of energy distance: no part of a rule, since
    it was added after a look at the record."""
    return ratio(*(area_by_thickness(family(record, g, **where)) for g in (guide, rival)))


def places(record, *stages):
    """Where the record has them: each world and stage."""
    fits = record["results"]["fits"]
    return [dict(world=f["world"], stage=f["stage"]) for f in fits if not stages or f["stage"] in stages]


def first(record):
    """The place of the headline: the first world, at its last stage."""
    config = record["config"]
    return dict(world=config["worlds"][0][0], stage=config["stages"][-1][0])


def _name(where):
    return f"{where['world']}, {where['stage']}"


def c21(record):
    """Is CFG held back by its null branch?"""
    done = [p for p in places(record, *DONE) if p["world"] in record["config"]["wide"]]
    ideal = {_name(p): against(record, "exact null", "own null", **p) for p in places(record, *DONE)}
    better = {_name(p): against(record, BETTER, "own null", **p) for p in done}
    worse = {_name(p): against(record, "own null, b = 0.4", "own null", **p) for p in done}
    parts = {f"an ideal null is better: {name}": r[2] < 1 for name, r in ideal.items()}
    parts |= {f"a better trained null is better: {name}": r[2] < 1 for name, r in better.items()}
    return over_seeds(
        record,
        ideal[_name(first(record))],
        "area under the trade-off, CFG with an ideal null relative to CFG as it is",
        parts,
        f"ideal null {listed(ideal)}; better trained null {listed(better)}; "
        f"its own null, blurred on purpose, {listed(worse)}",
        LOGS,
    )


def c22(record):
    """Does DoG need what the pre-trained model knows?"""
    found = {_name(p): against(record, "learned source", WIDE, **p) for p in places(record)}
    exact = {_name(p): against(record, "exact source", WIDE, **p) for p in places(record)}
    return over_seeds(
        record,
        found[_name(first(record))],
        "what DoG leaves, relative to a round Gaussian of std 2 as guide",
        {f"better than the Gaussian: {name}": r[2] < 1 for name, r in found.items()},
        f"learned source {listed(found)}; exact source {listed(exact)} (energy distance where hardly begun "
        "or class unfinished, else the area under the trade-off)",
        LOGS,
    )


def c23(record):
    """Is the blurred self ahead of every method with a second model or label?"""
    rivals = {"own null": "CFG", "learned source": "DoG", "weaker self": "autoguidance"}
    found = {
        (name, _name(p)): against(record, SELF, rival, **p)
        for rival, name in rivals.items()
        for p in places(record, *DONE)
    }
    price = {
        name: at_equal_thickness(record, rival, "learned source", **first(record))
        for rival, name in (*rivals.items(), (SELF, "the blurred self"), (WIDE, "a round Gaussian"))
        if rival != "learned source"
    }
    means = {
        name: ", ".join(f"{r[0]:.2f}" for (rival, _), r in found.items() if rival == name)
        for name in rivals.values()
    }
    return over_seeds(
        record,
        max((r for r in found.values()), key=lambda r: r[0]),
        f"area under the trade-off relative to a rival's, b = 0.4, the largest of {len(found)}",
        {f"ahead of {name}: {place}": r[2] < 1 for (name, place), r in found.items()},
        f"in the order {'; '.join(_name(p) for p in places(record, *DONE))}: "
        + ", ".join(f"against {name} {values}" for name, values in means.items())
        + f". With the loss of thickness as the cost instead ({_name(first(record))}, relative to DoG; added "
        f"after a look): {listed(price)}",
        LOGS,
    )
