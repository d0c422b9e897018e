"""The rules that judge the claims about images. A weight that is "best" was chosen on other
seeds than it is shown on."""

from ..experiments.images_gap import sharpening
from ..intervals import student
from ..records import values
from .finding import over_seeds

W = 1.5  # the weight at which image claims compare methods


def c14_glyphs(record):
    """Outside the source DoG overshoots; inside, the closed form tells which directions sharpen.

    The judge cannot read handwriting, so nothing is said of it.
    """
    gaps = [g for g in record["config"]["gaps"] if g != "handwriting"]
    near, far = gaps[0], gaps[-1]
    frechet = lambda **method: values(record, "frechet", gap=near, **method)
    inside = student(100 * (frechet(method="DoG", w=W) / frechet(method="none") - 1))
    target = record["results"]["truth"][str(far)]["target"][0]
    beyond = lambda **method: student(values(record, "rotation", gap=far, **method) - target)
    short, over = beyond(method="none"), beyond(method="DoG", w=2.0)
    slope, correlation = (student(v) for v in sharpening(record, near))
    parts = {
        "inside it helps": inside[2] < 0,
        "outside the style is overshot": over[1] > 0,
        "directions sharpen in the order predicted": correlation[1] > 0.5,
        "and by the amount predicted": slope[1] > 0.8 and slope[2] < 1.2,
    }
    return over_seeds(
        record,
        over,
        f"degrees that DoG at w = 2 turns digits beyond the target's, gap {far}",
        parts,
        f"without guidance they end {short[0]:+.1f} degrees from it, so the fine-tune's shortfall hides a "
        f"part of the overshoot; inside the source DoG at w = {W} changes the Fréchet distance by "
        f"{inside[0]:+.0f}%. Over 64 directions of features log std changes with correlation "
        f"{correlation[0]:.2f} and slope {slope[0]:.2f} against the closed form",
    )


def c17(record):
    at = lambda method, metric, w=W: values(record, metric, method=method, w=w)
    weights = record["config"]["weights"]
    ratio = {w: student(at("DogFit", "frechet", w) / at("DoG", "frechet", w)) for w in weights}
    calls = at("DogFit", "calls").mean() / at("DoG", "calls").mean()
    parts = {f"within 10% at w = {w:g}": r[2] < 1.1 for w, r in ratio.items()}
    return over_seeds(
        record,
        ratio[W],
        f"Fréchet distance of DogFit relative to DoG, w = {W}",
        parts | {"half the calls": calls == 0.5},
        "a field trained with weight 2 − 1/w settles at DoG of weight w; relative distance "
        + ", ".join(f"{r[0]:.2f} at {w:g}" for w, r in ratio.items()),
    )
