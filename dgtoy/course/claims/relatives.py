"""The rule of C28, with its places, costs and rivals, was committed before its record existed.

Only the parts were put together afterwards, one for each cost and world in place of one for each relative.
"""

from ..experiments.relatives import apart, left, places
from ..intervals import LOGS, ratio
from ..rivals import RELATIVES
from .finding import listed, over_seeds

SELF = "blurred self"
COSTS = {"energy": "energy distance", "contraction": "loss of thickness"}


def c28(record):
    """Does another guide gain more than another update with the same guide?"""
    last = record["config"]["stages"][-1][0]
    done = [p for p in places(record) if p["stage"] == last]
    behind = {
        (name, p["world"], cost): ratio(left(record, name, cost, **p), left(record, SELF, cost, **p))
        for cost in COSTS
        for p in done
        for name in RELATIVES
    }
    nearest = min((r for (*_, cost), r in behind.items() if cost == "energy"), key=lambda r: r[0])
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
        nearest,
        "area under a relative's trade-off relative to the blurred self's, the smallest of "
        f"{len(RELATIVES) * len(done)}",
        {
            f"all behind at equal {COSTS[cost]}: {p['world']}": all(
                behind[name, p["world"], cost][1] > 1 for name in RELATIVES
            )
            for cost in COSTS
            for p in done
        },
        f"area relative to the same guide with its plain update ({done[0]['world']}, {last}): "
        f"{listed(by_plain)}. Energy distance at its own weight, relative to no guidance "
        f"({', '.join(p['stage'] for p in begun)}): {listed(unfinished)}",
        LOGS,
    )
