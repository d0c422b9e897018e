"""What a claim's rule returns."""

import dataclasses

from ..records import INTERVALS


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a rule found: a value with its interval and unit over `n` seeds, whether each part of the claim
    holds, a note, and how the interval was made."""

    value: float
    low: float
    high: float
    n: int
    unit: str
    parts: dict
    note: str
    interval: str = INTERVALS

    @property
    def verdict(self):
        held = sum(map(bool, self.parts.values()))
        return "holds" if held == len(self.parts) else "fails" if held == 0 else "holds in part"


def over_seeds(record, found, unit, parts, note):
    """The finding (mean, low, high) over the seeds of a record."""
    return Finding(*found, len(record["seeds"]), unit, parts, note)
