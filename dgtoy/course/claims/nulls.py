"""The rules of C21 to C23. Weights, widths and worlds were committed before the record existed.

Where a fine-tune is finished or only detail is missing, methods are compared by the area under the trade-off
of out-of-domain rate against energy distance and loss of thickness, both bounded; where it is not, by the
energy distance at the weight that is best on the other half of the seeds. Thickness came later, as in C32:
energy distance hardly sees thinner strokes.
"""

import functools

from ..experiments.nulls import BETTER, of_guide
from ..intervals import LOGS, ratio
from ..records import held_out
from ..tradeoff import area, area_by_thickness, at_equal_cost
from .finding import listed, over_seeds

WIDE, SELF = "Gaussian, std 2", "blurred self, b = 0.4"
DONE = ("detail missing", "finished")  # stages where guidance can only sharpen


def against(record, guide, rival, **where):
    """What a guide leaves by energy distance alone, relative to a rival: below 1 where it is better.
    -> (ratio, low, high)"""
    curves = [of_guide(record, g, **where) for g in (guide, rival)]
    left = area if where["stage"] in DONE else functools.partial(held_out, metric="energy")
    return ratio(*map(left, curves))


def at_equal_thickness(record, guide, rival, **where):
    """`against`, with the loss of thickness as the cost in place of energy distance."""
    return ratio(*(area_by_thickness(of_guide(record, g, **where)) for g in (guide, rival)))


def at_both_costs(record, guide, rival, **where):
    """`against`, with the loss of thickness bounded as well where guidance can only sharpen."""
    if where["stage"] not in DONE:
        return against(record, guide, rival, **where)
    return ratio(*(at_equal_cost(of_guide(record, g, **where)) for g in (guide, rival)))


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
    done = places(record, *DONE)
    wide = [p for p in done if p["world"] in record["config"]["wide"]]

    def to_own(guide, tried, compare=at_both_costs):
        """CFG with another null branch relative to its own, in each place."""
        return {_name(p): compare(record, guide, "own null", **p) for p in tried}

    ideal, better = to_own("exact null", done), to_own(BETTER, wide)
    blurred_on_purpose = functools.partial(to_own, "own null, b = 0.4", wide)
    parts = {f"an ideal null is better: {name}": r[2] < 1 for name, r in ideal.items()}
    parts |= {f"a better trained null is better: {name}": r[2] < 1 for name, r in better.items()}
    return over_seeds(
        record,
        ideal[_name(first(record))],
        "area under the trade-off at equal match and thickness, CFG with an ideal null relative to its own",
        parts,
        f"ideal null {listed(ideal)}; better trained null {listed(better)}; "
        f"its own null, blurred on purpose, {listed(blurred_on_purpose())}. At equal energy "
        f"distance alone ideal null {listed(to_own('exact null', done, against))}; better trained null "
        f"{listed(to_own(BETTER, wide, against))}; blurred {listed(blurred_on_purpose(against))}",
        LOGS,
    )


def c22(record):
    """Does DoG need what the pre-trained model knows?"""

    def to_wide(guide, compare=at_both_costs, tried=places(record)):
        """A guide relative to the Gaussian, in each place."""
        return {_name(p): compare(record, guide, WIDE, **p) for p in tried}

    found, by_match = to_wide("learned source"), to_wide("learned source", against, places(record, *DONE))
    return over_seeds(
        record,
        found[_name(first(record))],
        "what DoG leaves at equal match and thickness, relative to a round Gaussian of std 2 as guide",
        {f"better than the Gaussian: {name}": r[2] < 1 for name, r in found.items()},
        f"learned source {listed(found)}; exact source {listed(to_wide('exact source'))} (energy distance "
        "where hardly begun or class unfinished, else the area under the trade-off). At equal energy "
        f"distance alone learned source {listed(by_match)}",
        LOGS,
    )


def c23(record):
    """Is the blurred self ahead of every method with a second model or label?"""
    rivals = {"own null": "CFG", "learned source": "DoG", "weaker self": "autoguidance"}
    done = places(record, *DONE)

    def over_places(compare):
        """Relative to each rival, in each place."""
        return {name: {_name(p): compare(record, SELF, r, **p) for p in done} for r, name in rivals.items()}

    def told(found):
        numbers = {name: ", ".join(f"{r[0]:.2f}" for r in at.values()) for name, at in found.items()}
        return "; ".join(f"against {name} {values}" for name, values in numbers.items())

    found, by_match = over_places(at_both_costs), over_places(against)
    every = [r for at in found.values() for r in at.values()]
    ahead = sum(r[2] < 1 for at in by_match.values() for r in at.values())
    return over_seeds(
        record,
        max(every, key=lambda r: r[0]),
        "area under the trade-off at equal match and thickness, relative to a rival's, b = 0.4, the largest "
        f"of {len(every)}",
        {f"ahead of {name}: {place}": r[2] < 1 for name, at in found.items() for place, r in at.items()},
        f"in the order {'; '.join(map(_name, done))}: {told(found)}. At equal energy distance alone, where "
        f"thinner strokes cost little, it is ahead in {ahead} of {len(every)}: {told(by_match)}",
        LOGS,
    )
