"""Wrong answers to the exercises of notebook 11, and the words of the hint each must meet."""

import json
import math
import pathlib

import numpy as np

RECORD = json.loads((pathlib.Path(__file__).parents[2] / "figures" / "why.json").read_text())["results"]
STD = {
    view: {m: np.array([c["stds"][m][view] for c in RECORD["cells"]]) for m in RECORD["cells"][0]["stds"]}
    for view in ("features", "latents")
}
TRUTH = {view: np.array(r) for view, r in RECORD["ratio"].items()}
EXCESS, HALF, LEFT = (
    np.log(STD["features"][m] / TRUTH["features"]).mean() for m in ("none", "DoG", "DoG, w = 2")
)
IN_LATENTS, LEFT_IN_LATENTS = (
    np.log(STD["latents"][m] / TRUTH["latents"]).mean() for m in ("none", "DoG, w = 2")
)
NONE, DOG = (STD["features"][m].mean() for m in ("none", "DoG, w = 2"))
STEP = EXCESS - LEFT


def error(sign=-2, off=1, power=2):
    return lambda w, missing, term, cosine: (
        missing**2 + sign * (w - off) * cosine * missing * term + (w - off) ** power * term**2
    )


WRONG = {
    "as_narrow": [
        (EXCESS / STEP, "added to w = 1"),
        (2 + EXCESS / STEP, "counts from w = 2"),
        (LEFT / STEP, "start from w = 1"),
        (1 + EXCESS / (EXCESS - HALF), "for a step of one"),
        (1 + 0.5 * EXCESS / (EXCESS - HALF), "step from 1 to 1.5"),
        (1 + STEP / EXCESS, "upside down"),
        (1 + IN_LATENTS / (IN_LATENTS - LEFT_IN_LATENTS), "took the latents"),
        (1 + (NONE - TRUTH["features"].mean()) / (NONE - DOG), "logarithms first"),
        (1 - EXCESS / STEP, "sign is turned"),
    ],
    "error_at": [
        (error(off=0), "leave the error as it is"),
        (error(sign=2), "sign of the middle part"),
        (error(sign=-1), "twice their product"),
        (error(sign=0), "part with the cosine"),
        (error(power=1), "square of w - 1"),
        (lambda w, missing, term, cosine: missing**2 - 2 * (w - 1) * cosine * missing * term, "own square"),
        (lambda *case: math.sqrt(error()(*case)), "root of the error"),
        (lambda w, missing, *rest: error()(w, missing, *rest) - missing**2, "the error itself"),
        (
            lambda w, missing, term, cosine: missing**2 - 2 * (w - 1) * cosine + (w - 1) ** 2 * term**2,
            "both lengths",
        ),
        (0.24, "expected a function"),
    ],
    "perfect": [
        ("a", "still differ"),
        ("c", "no constant of pictures"),
        ("d", "step away from it"),
        ("1.5", "none of the options"),
    ],
}
