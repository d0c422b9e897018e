"""The seven findings of the README: each a claim, what was measured with its interval, and where to look."""

import numpy as np

from ..experiments import photos_guides, photos_plane
from ..experiments.guides import of_guide
from ..intervals import ratio, resampled
from ..lab import ON_AN_INTERVAL
from ..records import family, load, row
from ..tradeoff import area, at_equal_cost
from .nulls import WIDE, against, first
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
    domains = learned_domains(record)

    def against_cfg(cost, where=""):
        """DoG relative to CFG at an equal cost, domain by domain.  -> [(ratio, low, high)]"""
        both = ([cost(family(record, m + where, domain=d)) for m in ("DoG", "CFG")] for d in domains)
        return [ratio(*pair) for pair in both]

    listed = lambda found: ", ".join(f"{r[0]:.2f}" for r in found)
    told = ", ".join(f"{_span(r, '.2f')} ({d})" for r, d in zip(against_cfg(area), domains))
    return (
        "**On points DoG leaves fewer samples outside than CFG on two of three targets, but on none once "
        "thickness is bounded too.** Finished fine-tunes on "
        f"{len(record['seeds'])} sources (the grid counts as overfitted): for the same rise in energy "
        f"distance DoG leaves {told} times as many; with both guides at low noise "
        f"only {listed(against_cfg(area, ON_AN_INTERVAL))}; with thickness bounded too "
        f"{listed(against_cfg(at_equal_cost))} {_source(record, '06_domain_guidance_vs_cfg')}."
    )


def price(out):
    """What DoG loses in match to the target and in thickness, and how much of each an interval buys back."""
    record, w = load("transfer", out), 1.5
    domain, sigma = record["config"]["domains"][0], record["config"]["interval"][1]
    tried = (("none", 1.0), ("DoG", w), ("DoG on an interval", w))
    found = [row(record, domain=domain, method=method, w=weight) for method, weight in tried]
    none, dog, part = (np.array(r["energy"]) for r in found)
    thick = [np.mean(r["thickness"]) for r in found]
    outside = 100 * np.mean(found[-1]["out_of_domain"])
    undone = resampled(share, 100 * (dog - part), dog - none)
    return (
        "**The price is diversity. Guiding only at low noise buys most of the match back, but not the "
        f"thickness of the strokes.** At w = {w} DoG's energy distance rises from {none.mean():.3f} to "
        f"{dog.mean():.3f}; guided only where σ < {sigma:g}, {_span(undone, '.0f', '%')} of the rise is "
        f"undone and {outside:.1f}% of the samples lie outside (of true ones 1.0%). Thickness falls "
        f"from {thick[0]:.2f} of the truth's to {thick[1]:.2f}, on the interval to {thick[2]:.2f} "
        f"{_source(record, '06_domain_guidance_vs_cfg')}."
    )


def weaker_self(out):
    """Autoguidance against DoG at equal w, and over the whole trade-off by either cost."""
    record, w = load("guides", out), 1.25
    weaker, dog = (of_guide(record, guide) for guide in ("weaker self", "ancestor"))
    at = lambda guide: 100 * np.mean(row(record, stage="finished", guide=guide, w=w)["out_of_domain"])
    return (
        f"**Equal weight flatters DoG.** On finished fine-tunes at w = {w} it leaves {at('ancestor'):.1f}% "
        "of the samples outside, "
        f"and guidance by an early checkpoint of the fine-tune (autoguidance) {at('weaker self'):.1f}%. But "
        "for the same rise in energy distance autoguidance leaves "
        f"{_span(ratio(area(weaker), area(dog)), '.2f')} times as many as DoG, and for the same thinning "
        f"{_span(at_equal_thickness(weaker, dog), '.2f')} times ({len(record['seeds'])} sources) "
        f"{_source(record, '08_when_it_fails')}."
    )


def null_branch(out):
    """CFG with an exact null, and DoG's guide against guides that know only a width."""
    record = load("nulls", out)
    place = first(record)
    ideal = against(record, "exact null", "own null", **place)
    thick = as_thick_as(record, "exact null", "own null", **place)
    wide = against(record, WIDE, "learned source", **place)
    wide_thick = as_thick_as(record, WIDE, "learned source", **place)
    return (
        "**A better null branch would not help CFG, and on points a mere width is guide enough.** For the "
        f"same rise in energy distance CFG with an exact null leaves {_span(ideal, '.1f')} times as many "
        f"samples outside as with its own (for the same thinning {thick[0]:.2f}); and DoG with a round "
        f"Gaussian in the pre-trained model's place {_span(wide, '.2f')} times as many (for the same "
        f"thinning {wide_thick[0]:.2f}; finished fine-tunes, {len(record['seeds'])} sources) "
        f"{_source(record, '08_when_it_fails')}."
    )


def photographs(out):
    """DoG against CFG on photographs, from three pre-trained networks."""
    first, second = (load("photos", folder) for folder in (out, f"{out}/replica"))
    large = load("photos_large", out)
    few = large["config"]["targets"]  # of those inside
    inside = [t for t in first["config"]["targets"] if t != OUTSIDE]

    def lead(record, targets):
        """By how many percent DoG's distance lies below CFG's, on each target."""
        return [_less(on_photographs(record, "DoG", "CFG", t))[0] for t in targets]

    def mean(metric):
        found = {m: np.mean([own(first, m, t, metric) for t in inside]) for m in ("none", "DoG", "CFG")}
        return f"{found['none']:.2f} becomes {found['DoG']:.2f} (CFG {found['CFG']:.2f})"

    def first_without(target):
        """Whether no guidance is closest by the second judge, each at the weight of the first judge."""
        found = {m: np.mean(own(first, m, target, "frechet_second")) for m in ("none", "DoG", "CFG")}
        return min(found, key=found.get) == "none"

    targets = first["config"]["targets"]
    found = [on_photographs(first, "DoG", "CFG", t) for t in inside]
    both, sure = _less(over_targets(found)), sum(high < 1 for _, _, high in found)
    return (
        "**To a judge of objects DoG beats CFG on photographs inside the source only.** At own "
        f"weights DoG's Fréchet distance is {_span(both, '.0f', '%')} lower over {len(inside)} targets "
        f"({_reach(lead(first, inside))}, surely on {sure}), {-lead(first, [OUTSIDE])[0]:.0f}% higher on "
        f"paintings (second network {_reach(lead(second, inside))}, {-lead(second, [OUTSIDE])[0]:.0f}%; [one "
        f"eight times as large](figures/photos_large.json) {_reach(lead(large, few))}). A judge of patches "
        f"prefers no guidance on {sum(map(first_without, targets))} of {len(targets)}. Precision "
        f"{mean('precision')}, recall {mean('recall')} {_source(first, '10_photographs')}."
    )


def whose_guide(out):
    """On photographs: guides that know only a width, or only the target, against kin of the old model."""
    records = {folder: load("photos_guides", folder) for folder in (out, f"{out}/replica")}
    last, later = (record["config"]["stages"][-1] for record in records.values())
    means = lambda found: _reach([mean for mean, _, _ in found])

    def above(folder, guide, rival="pre-trained"):
        """By how many percent the distance with a guide lies above a rival's, at the last stage.

        -> {target: (mean, low, high)}
        """
        found, config = records[folder], records[folder]["config"]
        at = lambda t, g: photos_guides.distance(found, t, config["stages"][-1], g)
        return {t: _more(ratio(at(t, guide), at(t, rival))) for t in config["targets"]}

    def kin(folder):
        """The same of an early checkpoint and of a stranger, all targets."""
        other = load("photos_stranger", folder)
        strangers = [_more(on_photographs(other, "stranger", "DoG", t)) for t in other["config"]["targets"]]
        return means([*above(folder, "weaker self").values(), *strangers])

    blur = [above(folder, "self, blurred") for folder in records]
    told = ", ".join(f"{_span(found, '.0f', '%')} ({t})" for t, found in blur[0].items())
    kindred, there = map(kin, records)
    return (
        "**On photographs the guide must know such pictures, but need not be the pre-trained model.** "
        f"After {last:,} steps the fine-tune's density, blurred, in its place raises the Fréchet distance by "
        f"{told}; an early checkpoint or [another model of these pictures](figures/photos_stranger.json) by "
        f"{kindred} ([larger network](figures/replica/photos_guides.json), after {later:,}: "
        f"{means(blur[1].values())}; {there}). A separate null costs CFG "
        f"{means(above(out, 'unconditional', 'own null').values())} "
        f"({len(records[out]['seeds'])} fine-tunes each) {_source(records[out], '11_why_it_sharpens')}."
    )


def _reach(found):
    """The least and the greatest of percentages."""
    return f"{min(found):.0f} to {max(found):.0f}%"


def one_call(out):
    """DogFit in one call per step, beside DoG in two."""
    record = load("photos_plane", out)
    targets, last = record["config"]["targets"], record["config"]["stages"][-1]

    def lower(method):
        """By how many percent a method's distance lies below no guidance, target by target."""
        both = lambda target: (photos_plane.own(record, m, target, last) for m in (method, "none"))
        return {t: _less(ratio(*both(t))) for t in targets}

    trained = " and ".join(f"{_span(v, '.0f', '%')} on {t}" for t, v in lower("DogFit").items())
    two = " and ".join(f"{v[0]:.0f}%" for v in lower("DoG").values())
    return (
        "**Once trained, one call per step is enough.** DogFit, a fine-tune that learns the guided field, "
        f"lowers the Fréchet distance of photographs by {trained}; DoG, in two calls per step, by {two} "
        f"({len(record['seeds'])} fine-tunes each) {_source(record, '10_photographs')}."
    )


def _more(found):
    """By how many percent a ratio lies above 1.  (ratio, low, high) -> (mean, low, high)"""
    return [100 * (r - 1) for r in found]


def _less(found):
    """By how many percent a ratio lies below 1.  (ratio, low, high) -> (mean, low, high)"""
    value, low, high = (100 * (1 - r) for r in found)
    return value, high, low
