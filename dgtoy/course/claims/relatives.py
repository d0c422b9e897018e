"""The rule of C28. Its places and rivals were committed before its record existed.

Afterwards its parts were put together, one for each world in place of one for each relative, and match and
thickness bounded both, in place of one at a time.
"""

from ..experiments.relatives import apart, left, places
from ..intervals import LOGS, ratio
from ..records import family
from ..rivals import RELATIVES
from ..tradeoff import at_equal_cost
from .finding import listed, over_seeds

SELF = "blurred self"


def c28(record):
    """Does another guide gain more than another update with the same guide?"""
    last = record["config"]["stages"][-1][0]
    done = [p for p in places(record) if p["stage"] == last]
    at = lambda name, where: at_equal_cost(family(record, name, **where))
    behind = {p["world"]: {name: ratio(at(name, p), at(SELF, p)) for name in RELATIVES} for p in done}
    by_match = [ratio(left(record, n, **p), left(record, SELF, **p)) for p in done for n in RELATIVES]
    every = [r for found in behind.values() for r in found.values()]
    by_plain = {  # what the update itself changes
        name: ratio(left(record, name, **done[0]), left(record, plain, **done[0]))
        for plain in ("CFG", "DoG")
        for name in RELATIVES
        if name.startswith(plain)
    }
    begun = [p for p in places(record) if p["stage"] != last]
    unfinished = {
        name: ratio(apart(record, name, **p), apart(record, "none", **p))
        for p in begun
        for name in ("CFG", "CFG, self-consistent", "DoG", "DoG, self-consistent", SELF, *RELATIVES)
    }
    return over_seeds(
        record,
        min(every, key=lambda r: r[0]),
        "area under a relative's trade-off at equal match and thickness, relative to the blurred self's, the "
        f"smallest of {len(every)}",
        {f"all behind: {world}": all(r[1] > 1 for r in found.values()) for world, found in behind.items()},
        f"all with Euler's method, {record['config']['setting']['steps']} steps. "
        + "; ".join(f"{world}: {listed(found)}" for world, found in behind.items())
        + f". At equal energy distance alone {sum(r[1] > 1 for r in by_match)} of {len(every)} are behind, "
        f"the nearest at {min(r[0] for r in by_match):.2f}. Area relative to the same guide with its plain "
        f"update, at equal energy distance ({done[0]['world']}, {last}): "
        f"{listed(by_plain)}. Energy distance at its own weight, relative to no guidance "
        f"({', '.join(p['stage'] for p in begun)}): {listed(unfinished)}",
        LOGS,
    )
