"""The seven findings of the README: one sentence each, with its number, its interval and where to look."""

import numpy as np

from ..experiments import nulls, photos_guides, photos_plane
from ..experiments.guides import of_guide
from ..intervals import ratio, resampled
from ..records import family, load, row, values
from ..tradeoff import area, area_by_thickness
from .nulls import SELF, WIDE, against, at_equal_thickness, first
from .photos import OUTSIDE, over_targets, own
from .photos import against as on_photographs
from .points import learned_domains, share


def sentences(out="figures"):
    """All of them as a numbered Markdown list, every number from the records in `out`."""
    made = (trade_off, price, weaker_self, null_branch, photographs, whose_guide, one_call)
    return "\n".join(f"{i}. {sentence(out)}" for i, sentence in enumerate(made, 1))


def _span(found, digits=".1f", unit=""):
    mean, low, high = (format(v, digits) for v in found)
    return f"{mean}{unit} [{low}, {high}]"


def _source(record, notebook):
    number, name = notebook[:2], record["name"]
    return f"([notebook {number}](notebooks/{notebook}.ipynb), [record](figures/{name}.json))"


def trade_off(out):
    """At the same cost in match DoG leaves fewer outside than CFG, on one source and over many."""
    record, many = load("transfer", out), load("nulls", out)
    domains = learned_domains(record)
    fewer = {d: fewer_outside(*(family(record, m, domain=d) for m in ("DoG", "CFG"))) for d in domains}

    listed = " and ".join(f"{_span(v, '.0f', '%')} on {d}" for d, v in fewer.items())

    def over_sources(domain):
        where, guides = dict(world=domain, stage="finished"), ("learned source", "own null")
        dog, cfg = (nulls.family(many, guide, **where) for guide in guides)
        ahead = f"on {(area(dog) < area(cfg)).sum()} of {len(many['seeds'])}"
        return f"{_span(fewer_outside(dog, cfg), '.0f', '%')} on {domain} (fewer {ahead})"

    return (
        "**Over the whole trade-off DoG leaves fewer samples outside the target than CFG, but not on every "
        "source:** on 2-D points, for the same rise in energy distance, fewer by "
        f"{listed} ({len(record['seeds'])} "
        f"trainings on one source), and over other sources by {' and '.join(map(over_sources, domains))} "
        f"{_source(record, '06_domain_guidance_vs_cfg')}."
    )


def fewer_outside(better, worse):
    """By how many percent the area under one family's trade-off is below another's.  -> (mean, low, high)"""
    return _less(ratio(area(better), area(worse)))


def price(out):
    """What DoG loses in match to the target, and how much an interval buys back."""
    record, w = load("transfer", out), 1.5
    domain, sigma = record["config"]["domains"][0], record["config"]["interval"][1]
    none = values(record, "energy", domain=domain, method="none")
    dog = values(record, "energy", domain=domain, method="DoG", w=w)
    part = row(record, domain=domain, method="DoG on an interval", w=w)
    outside = 100 * np.mean(part["out_of_domain"])
    undone = resampled(share, 100 * (dog - part["energy"]), dog - none)
    return (
        f"**The price is diversity, and most of it can be had back:** at w = {w} DoG's energy distance to "
        f"the target rises from {none.mean():.3f} to {dog.mean():.3f}, and guiding only where σ < {sigma:g} "
        f"undoes {_span(undone, '.0f', '%')} of the rise and leaves {outside:.1f}% of the samples outside, "
        f"where 1.0% of true samples lie {_source(record, '06_domain_guidance_vs_cfg')}."
    )


def weaker_self(out):
    """Autoguidance against DoG over the whole trade-off, by either cost, and what equal w makes of it."""
    record, w = load("guides", out), 1.25
    weaker, dog = (of_guide(record, g) for g in ("weaker self", "ancestor"))
    fewer = fewer_outside(weaker, dog)
    as_thick = ratio(area_by_thickness(weaker), area_by_thickness(dog))
    at = lambda guide: 100 * np.mean(row(record, stage="finished", guide=guide, w=w)["out_of_domain"])
    return (
        "**Equal weight flatters DoG:** on finished fine-tunes, guidance by a weaker copy of the fine-tune "
        f"(autoguidance) leaves {_span(fewer, '.0f', '%')} fewer outside than DoG for the same rise in "
        f"energy distance, though {at('weaker self'):.1f}% against {at('ancestor'):.1f}% at equal w = {w}; "
        f"at an equal loss of thickness it leaves {_span(as_thick, '.2f')} times as many "
        f"{_source(record, '08_when_it_fails')}."
    )


def null_branch(out):
    """CFG with an exact null, and DoG's guide against guides that know only a width."""
    record = load("nulls", out)
    place = first(record)
    ideal = against(record, "exact null", "own null", **place)
    wide, own = (against(record, guide, "learned source", **place) for guide in (WIDE, SELF))
    as_thick = [at_equal_thickness(record, guide, "learned source", **place)[0] for guide in (WIDE, SELF)]
    return (
        "**A better null branch would not help CFG, and on points DoG's guide may know as little as a "
        "width:** on finished fine-tunes in two dimensions CFG with an exact null leaves "
        f"{_span(ideal, '.1f')} times as many samples "
        "outside as with its own, for the same rise in energy distance; a round Gaussian as guide leaves "
        f"{_span(wide, '.2f')} times as many as the pre-trained model, and the fine-tune's own density, "
        f"blurred, {_span(own, '.2f')} times as many ({len(record['seeds'])} sources); at an equal loss "
        f"of thickness these are {as_thick[0]:.2f} and {as_thick[1]:.2f} times "
        f"{_source(record, '08_when_it_fails')}."
    )


def photographs(out):
    """DoG against CFG and against a weaker self on photographs, from two pre-trained networks."""
    first, second = (load("photos", folder) for folder in (out, f"{out}/replica"))
    inside = [t for t in first["config"]["targets"] if t != OUTSIDE]

    def lead(record, targets, rival="CFG"):
        """By how many percent DoG's distance lies below a rival's, on each target."""
        return [_less(on_photographs(record, "DoG", rival, t))[0] for t in targets]

    def mean(metric):
        found = {m: np.mean([own(first, m, t, metric) for t in inside]) for m in ("none", "DoG", "CFG")}
        return f"from {found['none']:.2f} to {found['DoG']:.2f} (CFG {found['CFG']:.2f})"

    both = _less(over_targets([on_photographs(first, "DoG", "CFG", t) for t in inside]))
    weaker = lead(first, inside, "autoguidance")
    return (
        "**On photographs DoG is ahead of CFG inside the source and behind outside it:** each method at its "
        f"own weight, DoG's Fréchet distance is {_span(both, '.0f', '%')} lower on {len(inside)} targets "
        f"({_reach(lead(first, inside))} by target) and {-lead(first, [OUTSIDE])[0]:.0f}% higher on "
        f"paintings ({len(first['seeds'])} fine-tunes each); from a second pre-trained network it is "
        f"{_reach(lead(second, inside))} lower and {-lead(second, [OUTSIDE])[0]:.0f}% higher; precision "
        f"rises {mean('precision')}, and recall falls {mean('recall')}; an early checkpoint as guide comes "
        f"within {max(map(abs, weaker)):.0f}% {_source(first, '10_photographs')}."
    )


def whose_guide(out):
    """On photographs: guides that know only a width, or only the target, against kin of the old model."""
    record = load("photos_guides", out)
    config = record["config"]
    targets, last = config["targets"], config["stages"][-1]

    def above(*guides, rival="pre-trained"):
        """By how many percent the distance with a guide lies above a rival's, over guides and targets."""
        pairs = [(g, rival, t) for g in guides for t in targets]
        return _reach([100 * (relative(g, r, t)[0] - 1) for g, r, t in pairs])

    def relative(guide, rival, target):
        return ratio(*(photos_guides.distance(record, target, last, g) for g in (guide, rival)))

    def percent(target):
        """The blurred self against DoG, with its interval over fine-tunes."""
        return _span([100 * (v - 1) for v in relative("self, blurred", "pre-trained", target)], ".0f", "%")

    blurred = ", ".join(f"{percent(t)} on {t}" for t in targets)

    return (
        f"**On photographs a width is not enough:** after {last:,} steps, each guide at its own weight, the "
        f"Fréchet distance lies above DoG's by {blurred} with the fine-tune's own density, blurred, and by "
        f"{above('Gaussian')} "
        "with a Gaussian of the source's spectrum, where no guidance does best; a null branch trained as a "
        f"network of its own makes CFG {above('unconditional', rival='own null')} worse; an early checkpoint "
        f"({above('weaker self')}) and mixtures of pre-trained model and fine-tune "
        f"({above(*photos_guides.MIXED)}) come close ({len(targets)} targets, {len(record['seeds'])} "
        f"fine-tunes each) {_source(record, '11_why_it_sharpens')}."
    )


def _reach(found):
    """The least and the greatest of percentages."""
    return f"{min(found):.0f} to {max(found):.0f}%"


def one_call(out):
    """DogFit in one call a step, and the weights that held-out pictures ask for."""
    record = load("photos_plane", out)
    targets, last = record["config"]["targets"], record["config"]["stages"][-1]

    def lower(method):
        """By how many percent a method's distance lies below no guidance, target by target."""
        both = lambda target: (photos_plane.own(record, m, target, last) for m in (method, "none"))
        return {t: _less(ratio(*both(t))) for t in targets}

    trained = " and ".join(f"{_span(v, '.0f', '%')} on {t}" for t, v in lower("DogFit").items())
    two = " and ".join(f"{v[0]:.0f}%" for v in lower("DoG").values())
    asked = [values(record, "frechet", target=t, stage=last, method="DoG").mean() for t in targets]
    none = [photos_plane.own(record, "none", t, last).mean() for t in targets]
    more = " and ".join(f"{100 * (a / n - 1):.0f}%" for a, n in zip(asked, none))
    return (
        "**Once trained, one call a step does it:** DogFit, a fine-tune that learns the guided field, lowers "
        f"the Fréchet distance by {trained} in one network call, DoG by {two} in two; with the weights that "
        f"held-out pictures ask for DoG raises it by {more}, so the gain is no completion "
        f"({len(record['seeds'])} fine-tunes each) {_source(record, '10_photographs')}."
    )


def _less(found):
    """By how many percent a ratio lies below 1.  (ratio, low, high) -> (mean, low, high)"""
    value, low, high = (100 * (1 - r) for r in found)
    return value, high, low
