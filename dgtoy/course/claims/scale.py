"""The rules that judge C15 and C20 at scale. They were written before any record of either existed."""

import numpy as np

from ...metrics import bootstrap
from ..experiments.scale import GUIDES, METHODS, W, frechet, own
from ..experiments.why import sharpening
from ..records import rows, values
from .finding import Finding

FEW = "95% percentile bootstrap over so few seeds that it covers about half"


def c15(record):
    config = record["config"]
    targets, variants, last = config["targets"], config["variants"], config["stages"][-1]
    inside = [t for t in targets if t != "outside"]
    at = lambda method, t: frechet(record, method, target=t)
    of = lambda method, variant="full": frechet(record, method, variant=variant)
    guides = {g: values(record, "frechet", table="guide", guide=g) for g in GUIDES}
    by_steps = lambda method: [np.mean(r["frechet"]) for r in rows(record, table="steps", method=method)]
    gain = bootstrap(np.concatenate([100 * (1 - at("dog", t) / at("cfg", t)) for t in inside]))
    cfg_gain = bootstrap(np.concatenate([at("none", t) - at("cfg", t) for t in inside]))
    guide_gain = bootstrap(guides["fine-tuned null"] - guides["pre-trained null"])
    parts = {
        "DoG < CFG on average": gain[1] > 0,
        "in every target inside the source": all(at("dog", t).mean() < at("cfg", t).mean() for t in inside),
        "CFG < none": cfg_gain[1] > 0,
        "with every sampler and number of steps": bool(np.all(np.less(by_steps("dog"), by_steps("cfg")))),
        "the pre-trained guide beats the fine-tuned null": guide_gain[1] > 0,
    }
    if "no label dropout" in variants:
        worse = bootstrap(of("dog", "no label dropout") / of("dog"))
        parts["without label dropout as well"] = worse[2] < 1.1
    if "LoRA" in variants:
        parts["with LoRA as well"] = bootstrap(of("none", "LoRA") - of("dog", "LoRA"))[1] > 0
    means = {t: ", ".join(f"{at(m, t).mean():.0f}" for m, _ in METHODS) for t in targets}
    changes = {
        t: own(record, "dog", target=t).mean() / own(record, "cfg", target=t).mean() - 1 for t in targets
    }
    return Finding(
        *gain,
        len(record["seeds"]),
        f"% lower Fréchet distance than CFG, w = {W:g}, mean over {len(inside)} targets",
        parts,
        f"none, CFG, DoG after {last} steps: {'; '.join(f'{t} {means[t]}' for t in targets)}"
        "; each at its own weight, chosen on the other seeds, DoG against CFG: "
        f"{', '.join(f'{t} {100 * changes[t]:+.0f}%' for t in targets)}"
        f"; guides: {', '.join(f'{g} {v.mean():.0f}' for g, v in guides.items())}",
        FEW,
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
        FEW,
    )
