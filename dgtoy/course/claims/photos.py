"""The rules of the claims on photographs, C13 to C19, C24, C25 and C33 to C36. Rules, metrics and weights
were committed before the records existed.

Each method is compared at its own weight, chosen on the other half of the fine-tunes; numbers are ratios of
Fréchet distances, below 1 where the first method is better, with t intervals of their logarithms over
fine-tunes, target by target. A headline over three targets or more is an interval over those targets' means;
over fewer it is the part that speaks least for the claim, or where the claim fails, most for it.
"""

import numpy as np

from ..experiments import photos_guides, photos_length, photos_plane, photos_recipes
from ..experiments.photos import own
from ..intervals import LOGS, ratio, student
from ..records import family, held_out, values
from .finding import over_seeds

OUTSIDE = "art7"
W = 1.5  # the weight of the paper
BROAD = ("weaker self", "self, blurred", "Gaussian")  # one that is weaker, and two that are only broader


def against(record, method, rival, target):
    """A method's Fréchet distance relative to a rival's, each at its own weight.  -> (ratio, low, high)"""
    return ratio(own(record, method, target), own(record, rival, target))


def over_targets(ratios):
    """The geometric mean of ratios, and its 95% interval over what they belong to.  -> (ratio, low, high)"""
    return tuple(float(np.exp(v)) for v in student(np.log([r[0] for r in ratios])))


def _listed(ratios):
    return ", ".join(
        f"{name} {value:.2f} ({low:.2f} to {high:.2f})" for name, (value, low, high) in ratios.items()
    )


def c13(record):
    """The paper's order: DoG ahead of CFG ahead of no guidance, in quality and fidelity."""
    targets = [t for t in record["config"]["targets"] if t != OUTSIDE]
    cfg = {t: against(record, "DoG", "CFG", t) for t in targets}
    parts = {f"DoG < CFG: {t}": r[2] < 1 for t, r in cfg.items()}
    parts |= {f"CFG < none: {t}": against(record, "CFG", "none", t)[2] < 1 for t in targets}
    for t in targets:
        gain = own(record, "DoG", t, "precision") - own(record, "none", t, "precision")
        parts[f"precision up: {t}"] = student(gain)[1] > 0
    paper = {
        t: ratio(*(values(record, "frechet", target=t, method=m, w=W) for m in ("DoG", "CFG")))
        for t in targets
    }
    return over_seeds(
        record,
        over_targets(cfg.values()),
        "Fréchet distance of DoG relative to CFG, each at its own w; geometric mean over targets",
        parts,
        f"by target {_listed(cfg)}; both at w = {W:g} {_listed(paper)}",
        f"{LOGS} over {len(targets)} targets; by target",
    )


def c14(record):
    """Far from the source DoG harms."""
    none = values(record, "frechet", target=OUTSIDE, method="none")

    def change(method, w):
        return ratio(values(record, "frechet", target=OUTSIDE, method=method, w=w), none)

    found = {f"w = {w:g}": change("DoG", w) for w in record["config"]["weights"] if w >= W}
    rival = change("CFG", W)
    parts = {f"DoG harms: {name}": r[1] > 1 for name, r in found.items()}
    parts["CFG does not"] = rival[1] <= 1
    return over_seeds(
        record,
        found[f"w = {W:g}"],
        f"Fréchet distance of DoG at w = {W:g} on paintings, relative to no guidance",
        parts,
        f"DoG at {_listed(found)}; CFG at {_listed({f'w = {W:g}': rival})}",
        LOGS,
    )


def c15(record):
    """Is it the pre-trained model, or any weaker or broader one? Every guide at every stage."""
    config = record["config"]
    guides = [g for g in photos_guides.GUIDES if g != "pre-trained"]

    def relative(guide, stage):
        """The distance of the pre-trained guide relative to another's, over targets."""
        return over_targets([ahead(record, guide, t, stage) for t in config["targets"]])

    found = {(g, s): relative(g, s) for s in config["stages"] for g in guides}
    parts = {f"{s} steps: ahead of {g}": r[2] < 1 for (g, s), r in found.items()}
    first, last = config["stages"][0], config["stages"][-1]
    rivals = [found[g, last] for g in BROAD]
    return over_seeds(
        record,
        max(rivals, key=lambda r: r[0]),
        "Fréchet distance with the pre-trained guide relative to the nearest of weaker self, blurred self "
        f"and Gaussian, after {last} steps",
        parts,
        f"after {first} steps {_listed({g: found[g, first] for g in guides})}; "
        f"after {last} {_listed({g: found[g, last] for g in guides})}",
        f"{LOGS} over {len(config['targets'])} targets; by target",
    )


def ahead(record, guide, target, stage):
    """The pre-trained guide's distance relative to another's.  -> (ratio, low, high) over fine-tunes"""
    mine, other = (photos_guides.distance(record, target, stage, g) for g in ("pre-trained", guide))
    return ratio(mine, other)


def c24(record):
    """Is the null branch what holds CFG back? Only the null becomes a well-trained model."""
    config = record["config"]
    last = config["stages"][-1]

    def relative(guide, rival):
        pair = lambda t: (photos_guides.distance(record, t, last, g) for g in (guide, rival))
        return {t: ratio(*pair(t)) for t in config["targets"]}

    better = relative("unconditional", "own null")
    level = relative("unconditional", "pre-trained")
    parts = {f"a well-trained null is better: {t}": r[2] < 1 for t, r in better.items()}
    parts |= {f"CFG becomes DoG: {t}": r[1] <= 1 for t, r in level.items()}
    return over_seeds(
        record,
        over_targets(better.values()),
        f"Fréchet distance of CFG with a well-trained null relative to CFG as it is, after {last} steps",
        parts,
        f"by target {_listed(better)}; relative to DoG {_listed(level)}",
        f"{LOGS} over {len(config['targets'])} targets; by target",
    )


def c16(record):
    """A LoRA, whose guide is the same network with the adapter off."""
    found = {r: over_recipe(record, "DoG", "none", recipe=r) for r in (photos_recipes.MAIN, "LoRA")}
    level = over_recipe(record, "DoG", "CFG", recipe="LoRA")
    return over_seeds(
        record,
        found["LoRA"],
        "Fréchet distance of DoG relative to no guidance on LoRA fine-tunes, at its own w",
        {"DoG < none": found["LoRA"][2] < 1, "DoG < CFG": level[2] < 1},
        f"{_listed(found)}; relative to CFG {level[0]:.2f}",
        LOGS,
    )


def c25(record):
    """Does the order of the methods survive the ablations?"""
    config = record["config"]
    places = {photos_recipes.shown(r): dict(recipe=r) for r in config["recipes"]}
    places |= {s: dict(sampler=s) for s in config["samplers"][1:]}
    helps = {name: over_recipe(record, "DoG", "none", **where) for name, where in places.items()}
    ahead = {name: over_recipe(record, "DoG", "CFG", **where) for name, where in places.items()}
    parts = {f"DoG < none: {name}": r[2] < 1 for name, r in helps.items()}
    parts |= {f"DoG < CFG: {name}": r[2] < 1 for name, r in ahead.items()}
    return over_seeds(
        record,
        max(ahead.values(), key=lambda r: r[0]),
        "largest Fréchet distance of DoG relative to CFG over recipes and samplers, each at its own w",
        parts,
        f"DoG relative to none {_listed(helps)}; to CFG {_listed(ahead)}",
        LOGS,
    )


UPDATES = {  # other updates with the same guide, by the method that has it
    "CFG": ("CFG, APG", "CFG-Zero*", "CFG++", "CFG by frequency"),
    "DoG": ("DoG, APG", "DoG, Zero*", "DoG++", "DoG by frequency"),
}


def c33(record):
    """Another guide or another update? Each relative against DoG at own w."""
    targets = record["config"]["targets"]
    found = {f"{m}: {t}": against(record, m, "DoG", t) for m in sum(UPDATES.values(), ()) for t in targets}
    parts = {
        f"CFG's guide does not reach DoG, {m}: {t}": found[f"{m}: {t}"][1] > 1
        for m in UPDATES["CFG"]
        for t in targets
    }
    parts |= {
        f"no gain of 5% over DoG, {m}: {t}": found[f"{m}: {t}"][0] > 0.95
        for m in UPDATES["DoG"]
        for t in targets
    }
    return over_seeds(
        record,
        min((found[f"{m}: {t}"] for m in UPDATES["CFG"] for t in targets), key=lambda r: r[0]),
        "smallest Fréchet distance of a relative of CFG relative to DoG over targets, each at its own w",
        parts,
        f"all with Euler's method, {record['config']['setting']['steps']} steps: {_listed(found)}",
        LOGS,
    )


def c34(record):
    """Another model of the same pictures in the ancestor's place."""
    targets = record["config"]["targets"]
    level = {t: against(record, "stranger", "DoG", t) for t in targets}
    helps = {t: against(record, "stranger", "none", t) for t in targets}
    parts = {f"better than no guidance: {t}": r[2] < 1 for t, r in helps.items()}
    parts |= {f"within 5% of the ancestor: {t}": r[0] < 1.05 for t, r in level.items()}
    return over_seeds(
        record,
        over_targets(level.values()),
        "Fréchet distance with a stranger of the same pictures as guide, relative to the ancestor, each at "
        "its own w",
        parts,
        f"by target {_listed(level)}; relative to no guidance {_listed(helps)}",
        f"{LOGS} over {len(targets)} targets; by target",
    )


def c36(record):
    """What guidance gives where the loss on held-out pictures no longer falls."""
    config = record["config"]
    done = {t: photos_length.finished(record, t) for t in config["targets"]}
    of = lambda method, t: held_out(family(record, method, target=t, stage=done[t]))
    lead = {t: ratio(of("DoG", t), of("CFG", t)) for t in done}
    gain = {t: ratio(of("DoG", t), of("none", t)) for t in done}
    parts = {f"the loss rises again: {t}": stage < config["stages"][-1] for t, stage in done.items()}
    parts |= {f"DoG < none: {t}": r[2] < 1 for t, r in gain.items()}
    parts |= {f"DoG < CFG: {t}": r[2] < 1 for t, r in lead.items()}
    reached = ", ".join(f"{t} after {stage:,} steps" for t, stage in done.items())
    return over_seeds(
        record,
        max(lead.values(), key=lambda r: r[0]),
        "largest Fréchet distance of DoG relative to CFG, each at its own w, where the loss is lowest",
        parts,
        f"the loss is lowest on {reached}; DoG relative to CFG {_listed(lead)}; to none {_listed(gain)}",
        LOGS,
    )


def over_recipe(record, method, rival, recipe=photos_recipes.MAIN, sampler=None):
    """A method's distance relative to a rival's by one recipe, each at its own w.  -> (ratio, low, high)"""
    where = dict(recipe=recipe, sampler=sampler or record["config"]["samplers"][0])
    return ratio(*(held_out(family(record, m, **where)) for m in (method, rival)))


def at_point(record, target, stage, method, a=None, b=None):
    """The Fréchet distances of a point of the plane, or of a method with weights of its own.  -> (S,)"""
    weights = dict(a=a, b=b or a) if a else {}
    return values(record, "frechet", target=target, stage=stage, method=method, **weights)


def c17_photos(record):
    """The field learned in training against two calls a step."""
    config = record["config"]
    last = config["stages"][-1]
    found = {
        f"{t}, w = {w:g}": ratio(
            at_point(record, t, last, "DogFit", w), at_point(record, t, last, "plane", 1.0)
        )
        for t in config["targets"]
        for w in config["learned"]
    }
    dog = {
        t: ratio(photos_plane.own(record, "DoG", t, last), at_point(record, t, last, "plane", 1.0))
        for t in config["targets"]
    }
    return over_seeds(
        record,
        max(found.values(), key=lambda r: r[0]),
        "largest Fréchet distance of DogFit in one call a step relative to no guidance, over targets and w",
        {f"better than no guidance: {name}": r[2] < 1 for name, r in found.items()},
        f"{_listed(found)}; DoG in two calls, at its own w {_listed(dog)}",
        LOGS,
    )


def c18_photos(record):
    """Weights from held-out pictures, at an equal total budget."""
    config = record["config"]
    places = [(t, s) for t in config["targets"] for s in config["stages"]]
    none = {p: at_point(record, *p, "plane", 1.0) for p in places}
    weighed = {p: ratio(at_point(record, *p, "DoG", "calibrated"), none[p]) for p in places}
    walked = {p: ratio(at_point(record, *p, "DoG, from trajectories", "calibrated"), none[p]) for p in places}
    search = {
        p: ratio(at_point(record, *p, "DoG", "calibrated"), photos_plane.own(record, "DoG", *p))
        for p in places
    }
    name = lambda found: {f"{t}, {s} steps": r for (t, s), r in found.items()}
    parts = {f"better than more training: {n}": r[2] < 1 for n, r in name(weighed).items()}
    parts |= {f"within 5% of a search: {n}": r[2] < 1.05 for n, r in name(search).items()}
    return over_seeds(
        record,
        min(weighed.values(), key=lambda r: r[0]),
        "smallest Fréchet distance of DoG with calibrated weights relative to training on those pictures as "
        "well, over targets and stages",
        parts,
        f"by least squares {_listed(name(weighed))}; from sampled trajectories {_listed(name(walked))}",
        LOGS,
    )


def c19_photos(record):
    """The best point off both lines against the best on either, chosen on other fine-tunes."""
    config = record["config"]
    last = config["stages"][-1]
    found = {
        f"{t}, against {m}": ratio(
            photos_plane.own(record, "plane", t, last), photos_plane.own(record, m, t, last)
        )
        for t in config["targets"]
        for m in ("CFG", "DoG")
    }
    return over_seeds(
        record,
        max(found.values(), key=lambda r: r[0]),
        "largest Fréchet distance of the best point of the plane relative to the best of CFG or of DoG, over "
        "targets",
        {name: r[2] < 1 for name, r in found.items()},
        _listed(found),
        LOGS,
    )
