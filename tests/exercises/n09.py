"""Wrong answers to the exercises of notebook 09, and the words of the hint each must meet."""

import json
import pathlib

import numpy as np

from dgtoy.theory import gaussian_guidance

FIGURES = pathlib.Path(__file__).parents[2] / "figures"
RECORD = json.loads((FIGURES / "replica" / "images_gap.json").read_text())["results"]
READ = RECORD["truth"]["1.5"]["target"][0]  # degrees, as the feature network reads the target's rotation
NONE, DOG = (
    np.mean(next(r for r in RECORD["rows"] if (r["gap"], r["method"], r["w"]) == (1.5, m, w))["rotation"])
    for m, w in (("none", 1.0), ("DoG", 2.0))
)


def halves(choose_and_show, split=lambda v: (v[::2], v[1::2])):
    def value(values):
        one, two = split(values)
        return np.concatenate([choose_and_show(one, two), choose_and_show(two, one)]).mean()

    return value


def target(share):
    return lambda x0, D, D_pre, w: x0 + share(w) * (D - D_pre)


WRONG = {
    "overshoot": [
        (73.82, "where the samples end"),
        (0.0936, "multiply it by the distance"),
        (67.5, "w - 1 for the factor"),
        (5.31, "at w = 1.5"),
        (4.21, "at gap 1"),
        (12.63, "half-widths"),
        (-471.7, "swapped"),
        (-6.317, "towards the source"),
        (0.4228, "variances"),
        (
            gaussian_guidance(*(RECORD["truth"]["1.5"][k] for k in ("target", "source")), 2.0)[0] - READ,
            "errors of reading",
        ),
        (DOG - READ, "went past the target"),
        (DOG - NONE, "turned the networks' digits"),
    ],
    "fair": [
        (lambda v: v.mean(0).min(), "luckiest weight"),
        (lambda v: v.min(1).mean(), "every single seed"),
        (halves(lambda a, b: a[:, a.mean(0).argmin()]), "chose itself"),
        (lambda v: v[1::2, v[::2].mean(0).argmin()].mean(), "even seeds have to be judged"),
        (lambda v: v[::2, v[1::2].mean(0).argmin()].mean(), "odd seeds have to be judged"),
        (halves(lambda a, b: b[:, a.mean(0).argmax()]), "lowest is best"),
        (halves(lambda a, b: b[:, a.mean(0).argmin()], lambda v: np.split(v, 2)), "first and the last"),
        (halves(lambda a, b: b[:, a.min(0).argmin()]), "single best seed"),
        (
            lambda v: np.mean([v[i, np.delete(v, i, 0).mean(0).argmin()] for i in range(len(v))]),
            "one seed at a time",
        ),
        (lambda v: v.min(1), "returns shape"),
        (102.0, "expected a function"),
    ],
    "accident": [
        ("a", "main model as well"),
        ("c", "where the target ends"),
        ("d", "the fine-tune had left"),
        ("68", "none of the options"),
    ],
    "learned": [
        (target(lambda w: w - 1), "1/(2 - w), not at w"),
        (target(lambda w: 1 / (2 - w) - 1), "other way round"),
        (target(lambda w: 2 - 1 / w), "exceeds 1"),
        (target(lambda w: 1 / w - 1), "sign is turned"),
        (target(lambda w: 1 - w), "that of DogFit itself"),
        (lambda x0, D, D_pre, w: D + (1 - 1 / w) * (D - D_pre), "starts from D"),
        (target(lambda w: 1 / w), "from 0 at w = 1"),
        (lambda x0, D, D_pre, w: D_pre + w * (D - D_pre), "x0 is missing"),
        (target(lambda w: w), "no place to rest"),
        (lambda x0, D, D_pre, w: D_pre + w * (x0 - D_pre), "w times the scatter"),
        (lambda x0, D, D_pre, w: x0 + (1 - 1 / w) * (x0 - D_pre), "from D_pre to D"),
        (1.5, "expected a function"),
    ],
}
