"""What a claim's rule returns."""

import dataclasses

import numpy as np

from ..intervals import STUDENT
from ..records import regime


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a rule found: a value with its interval and unit over `n` draws, whether each part of the claim
    holds, a note, and how the interval was made and over what."""

    value: float
    low: float
    high: float
    n: int
    unit: str
    parts: dict
    note: str
    interval: str

    @property
    def verdict(self):
        held = sum(map(bool, self.parts.values()))
        return "holds" if held == len(self.parts) else "fails" if held == 0 else "holds in part"


def over_seeds(record, found, unit, parts, note, interval=STUDENT):
    """The finding (mean, low, high) over the seeds of a record."""
    return Finding(*found, len(record["seeds"]), unit, parts, note, f"{interval} over {drawn(record)}")


def listed(found, digits=".2f"):
    """Numbers by name, in words; of a number with its interval the number alone."""
    numbers = {name: v[0] if isinstance(v, tuple) else v for name, v in found.items()}
    return ", ".join(f"{name} {value:{digits}}" for name, value in numbers.items())


def either(weights):
    """The weights that each half of the seeds chose, in words."""
    return " or ".join(f"{w:g}" for w in np.unique(weights))


def drawn(record):
    """What the seeds of a record draw anew, and so what its intervals speak for."""
    setting, n = record["config"].get("setting", {}), len(record["seeds"])
    if "pretrain" not in setting:
        return f"{n} fine-tunes of one network" if setting else f"{n} random problems"
    own = "each on a source of its own" if setting.get("layout", 0) is None else "all on one source"
    return ", ".join(filter(None, (f"{n} trainings", _regimes(record) or regime(record), own)))


def _regimes(record):
    """The regime of each domain's fine-tunes as held-out weights in the record tell it, "" without any."""
    fits = record["results"].get("fits", [])
    return " and ".join(f"{fit['domain']} {fit['regime']}" for fit in fits if "domain" in fit)
