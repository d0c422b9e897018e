"""The rules of C9 and C10: which guide, on finished fine-tunes and on unfinished ones."""

import functools

import numpy as np

from ..experiments.guides import of_guide
from ..intervals import LOGS, ratio
from ..lab import ALWAYS, ON_AN_INTERVAL
from ..records import held_out, values
from .finding import listed, over_seeds
from .points import W, at_equal_thickness, at_own_weights, left, over_all_w, ways


def to_ancestor(record, guide):
    """What a guide leaves outside relative to the ancestor (`left`), finished: above 1 it is worse."""
    return left(*(of_guide(record, g) for g in (guide, "ancestor")))


GUIDE_OF = {
    "CFG": "own null",
    "DoG": "ancestor",
    "autoguidance": "weaker self",
    "blurred self": "blurred self",
}


def by_method(record, name):
    """The rows of `of_guide` by the name that a method of the field has elsewhere."""
    method = name.removesuffix(ON_AN_INTERVAL)
    return of_guide(record, GUIDE_OF[method] + name.removeprefix(method))


def completed(record, guide):
    """The energy distance that a guide leaves of a fine-tune hardly begun, at its own weight, relative to the
    ancestor's.  -> (ratio, low, high)"""
    begun = record["config"]["stages"][-1][0]
    return ratio(*(held_out(of_guide(record, g, begun), "energy") for g in (guide, "ancestor")))


def at_equal_w(record, guides):
    """The out-of-domain rates of finished fine-tunes at w = W, in words."""
    rate = lambda guide: values(record, "out_of_domain", stage="finished", guide=guide, w=W).mean()
    return listed({guide: rate(guide) for guide in guides}, ".3f")


def c9(record):
    auto, seed = to_ancestor(record, "weaker self"), to_ancestor(record, "other seed")["by area"]
    begun = {g: completed(record, g) for g in ("weaker self", "other seed", "other source")}
    parts = {f"ahead of autoguidance: {way}": r[1] > 1 for way, r in auto.items()} | {
        "ahead of autoguidance: hardly begun": begun["weaker self"][1] > 1,
        "another seed will do": 0.9 < seed[1] and seed[2] < 1.1,
        "another source will not do where hardly begun": begun["other source"][1] > 1.1,
    }
    curve = functools.partial(by_method, record)
    return over_seeds(
        record,
        auto["by area"],
        "area under the trade-off, autoguidance relative to DoG",
        parts,
        "finished: another seed's model instead of the ancestor "
        f"{seed[0]:.2f} [{seed[1]:.2f}, {seed[2]:.2f}] "
        "(the rule allows a tenth); the field relative to DoG "
        f"{over_all_w(curve, 'DoG')}; autoguidance at equal loss of thickness "
        f"{at_equal_thickness(curve('autoguidance'), curve('DoG'))[0]:.2f}; outside at own weight "
        f"{at_own_weights(curve, ALWAYS)}; at equal w = {W} "
        f"{at_equal_w(record, ('ancestor', 'other seed', 'weaker self'))}. Hardly begun: energy distance at "
        f"its own weight relative to DoG's {listed(begun)}",
        LOGS,
    )


def c10(record):
    """A control hurts if it is worse than the ancestor by area and at its own weight."""
    harm = {g: to_ancestor(record, g) for g in ("untrained", "random", "wrong label", "swapped")}
    itself = values(record, "energy", stage="finished", guide="itself", w=W)
    same = np.abs(itself - values(record, "energy", stage="finished", guide="none")).max()
    parts = {"itself changes nothing": same == 0}
    parts |= {
        f"worse than DoG: {name}": all(r[1] > 1 for r in found.values()) for name, found in harm.items()
    }
    return over_seeds(
        record,
        harm["untrained"]["by area"],
        "area under the trade-off, an untrained guide relative to the ancestor",
        parts,
        f"relative to the ancestor {'; '.join(f'{name} {ways(found)}' for name, found in harm.items())}. "
        f"Out-of-domain rate at equal w = {W}: {at_equal_w(record, ('ancestor', *harm))}. "
        "An untrained network is, by its preconditioning, the exact denoiser of a broad Gaussian: enough to "
        "sharpen",
        LOGS,
    )
