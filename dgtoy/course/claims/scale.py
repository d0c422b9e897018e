"""The rules that judge C15 and C20 at scale. They were written before any record of either existed."""

import numpy as np

from ...metrics import bootstrap
from ..experiments.why import sharpening
from ..records import family, held_out, rows, values
from .finding import Finding

W = 1.5  # the paper's weight
OUTSIDE = ("outside",)


def c15(record):
    config = record["config"]
    last, weight = config["stages"][-1], W if W in config["weights"] else config["weights"][0]

    def at(target, method, variant="full"):
        w = 1.0 if method == "none" else weight
        where = dict(table="weight", target=target, variant=variant, step=last)
        return values(record, "frechet", method=method, w=w, **where)

    inside = [t for t in config["targets"] if t not in OUTSIDE]
    gain = bootstrap(np.concatenate([100 * (1 - at(t, "dog") / at(t, "cfg")) for t in inside]))
    first = config["targets"][0]
    guide = lambda name: values(record, "frechet", table="guide", guide=name)
    by_steps = lambda method: [np.mean(r["frechet"]) for r in rows(record, table="steps", method=method)]
    parts = {
        "DoG < CFG on average": gain[1] > 0,
        "in every target inside the source": all(at(t, "dog").mean() < at(t, "cfg").mean() for t in inside),
        "CFG < none": bootstrap(np.concatenate([at(t, "none") - at(t, "cfg") for t in inside]))[1] > 0,
        "with every sampler and number of steps": bool(np.all(np.less(by_steps("dog"), by_steps("cfg")))),
        "the pre-trained guide beats the fine-tuned null": bootstrap(
            guide("fine-tuned null") - guide("pre-trained null")
        )[1]
        > 0,
    }
    if "no label dropout" in config["variants"]:
        parts["without label dropout as well"] = (
            bootstrap(at(first, "dog", "no label dropout") / at(first, "dog"))[2] < 1.1
        )
    if "LoRA" in config["variants"]:
        parts["with LoRA as well"] = bootstrap(at(first, "none", "LoRA") - at(first, "dog", "LoRA"))[1] > 0
    describe = "; ".join(
        f"{t} " + ", ".join(f"{at(t, m).mean():.0f}" for m in ("none", "cfg", "dog"))
        for t in config["targets"]
    )
    where = dict(table="weight", variant="full", step=last)
    own = lambda t, m: held_out(family(record, m, target=t, **where)).mean()
    describe += "; each at its own weight, chosen on the other seeds, DoG against CFG: " + ", ".join(
        f"{t} {100 * (own(t, 'dog') / own(t, 'cfg') - 1):+.0f}%" for t in config["targets"]
    )
    return Finding(
        *gain,
        len(record["seeds"]),
        f"% lower Fréchet distance than CFG, w = {weight:g}, mean over {len(inside)} targets",
        parts,
        f"none, CFG, DoG after {last} steps: {describe}; guides: "
        + ", ".join(
            f"{g} {guide(g).mean():.0f}"
            for g in (
                "pre-trained null",
                "pre-trained label",
                "fine-tuned null",
                "other model",
                "weaker self",
            )
        ),
    )


def c20(record):
    found = {}
    for view in ("features", "latents"):
        predicted, measured = sharpening(record, view)
        found[view] = (
            bootstrap([np.polyfit(predicted, m, 1)[0] for m in measured]),
            bootstrap([np.corrcoef(predicted, m)[0, 1] for m in measured]),
        )
    parts = {f"the order in {view}": c[1] > 0.5 for view, (_, c) in found.items()} | {
        f"the amount in {view}": s[1] > 0.8 and s[2] < 1.2 for view, (s, _) in found.items()
    }
    slope, correlation = found["features"]
    return Finding(
        *correlation,
        len(record["seeds"]),
        "correlation of measured and predicted change of log std, 64 directions of features, w = 2",
        parts,
        f"slope {slope[0]:.2f}; in latents correlation {found['latents'][1][0]:.2f}, "
        f"slope {found['latents'][0][0]:.2f}",
    )
