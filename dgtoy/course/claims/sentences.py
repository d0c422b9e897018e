"""The seven findings of the README: one sentence each, with its number, its interval and where to look."""

import numpy as np

from ..experiments import photos_guides, photos_plane
from ..experiments.guides import of_guide
from ..intervals import ratio, resampled
from ..records import family, load, row, values
from ..tradeoff import area, at_equal_cost
from .nulls import SELF, WIDE, against, first
from .nulls import at_equal_thickness as as_thick_as
from .photos import OUTSIDE, over_targets, own
from .photos import against as on_photographs
from .points import at_equal_thickness, learned_domains, share


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
    """What DoG leaves outside relative to CFG, domain by domain: for the same loss of match, of thickness."""
    record = load("transfer", out)

    def told(domain):
        dog, cfg = (family(record, m, domain=domain) for m in ("DoG", "CFG"))
        ahead = f"fewer on {(area(dog) < area(cfg)).sum()} of {len(record['seeds'])} sources"
        return f"{_span(ratio(area(dog), area(cfg)), '.2f')} times as many on {domain} ({ahead})"

    domains = learned_domains(record)
    as_thick = [ratio(*(at_equal_cost(family(record, m, domain=d)) for m in ("DoG", "CFG"))) for d in domains]
    return (
        "**For the same rise in energy distance DoG leaves fewer samples outside than CFG on finished "
        "fine-tunes; for the same thinning of the strokes it does not:** on 2-D points it leaves "
        f"{', '.join(map(told, domains))}; with the loss of thickness bounded as well "
        f"{', '.join(f'{r[0]:.2f}' for r in as_thick)} times {_source(record, '06_domain_guidance_vs_cfg')}."
    )


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
    """Autoguidance against DoG at equal w, and over the whole trade-off by either cost."""
    record, w = load("guides", out), 1.25
    weaker, dog = (of_guide(record, guide) for guide in ("weaker self", "ancestor"))
    at = lambda guide: 100 * np.mean(row(record, stage="finished", guide=guide, w=w)["out_of_domain"])
    return (
        f"**Equal weight flatters DoG:** on finished fine-tunes at equal w = {w} it leaves "
        f"{at('ancestor'):.1f}% outside, and guidance by a weaker copy of the fine-tune (autoguidance) "
        f"{at('weaker self'):.1f}%; but for the same rise in energy distance autoguidance leaves "
        f"{_span(ratio(area(weaker), area(dog)), '.2f')} times as many as DoG, and for the same loss of "
        f"thickness {_span(at_equal_thickness(weaker, dog), '.2f')} times ({len(record['seeds'])} sources) "
        f"{_source(record, '08_when_it_fails')}."
    )


def null_branch(out):
    """CFG with an exact null, and DoG's guide against guides that know only a width."""
    record = load("nulls", out)
    place = first(record)
    ideal = against(record, "exact null", "own null", **place)
    wide, own = (against(record, guide, "learned source", **place) for guide in (WIDE, SELF))
    pairs = (("exact null", "own null"), (WIDE, "learned source"), (SELF, "learned source"))
    as_thick = [f"{as_thick_as(record, *pair, **place)[0]:.2f}" for pair in pairs]
    return (
        "**A better null branch would not help CFG, and on points DoG's guide may know as little as a "
        "width:** on finished fine-tunes in two dimensions CFG with an exact null leaves "
        f"{_span(ideal, '.1f')} times as many samples "
        "outside as with its own, for the same rise in energy distance; a round Gaussian as guide leaves "
        f"{_span(wide, '.2f')} times as many as the pre-trained model, and the fine-tune's own density, "
        f"blurred, {_span(own, '.2f')} times as many ({len(record['seeds'])} sources); at an equal loss "
        f"of thickness these are {', '.join(as_thick[:-1])} and {as_thick[-1]} times "
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
