"""The rules that judge the claims about images. A weight that is "best" was chosen on other
seeds than it is shown on."""

from ..experiments.images_gap import sharpening
from ..intervals import LOGS, ratio, student
from ..records import values
from .finding import over_seeds

W = 1.5  # the weight at which image claims compare methods
LEARNED = 0.1  # the share of wrong classes up to which a fine-tune on glyphs has its classes


def regime(record, **where):
    """The regime of a record's fine-tunes on glyphs, by their class error without guidance, in words."""
    error = values(record, "class_error", method="none", **where).mean()
    return f"{'class unfinished' if error > LEARNED else 'detail missing'} (class error {error:.2f})"


def c14_glyphs(record):
    """Outside the source DoG overshoots; inside, the closed form tells which directions sharpen."""
    gaps = record["config"]["gaps"]
    near, far = gaps[0], gaps[-1]
    frechet = lambda **method: values(record, "frechet", gap=near, **method)
    inside = ratio(frechet(method="DoG", w=W), frechet(method="none"))
    target = record["results"]["truth"][str(far)]["target"][0]
    beyond = lambda **method: student(values(record, "rotation", gap=far, **method) - target)
    short, over = beyond(method="none"), beyond(method="DoG", w=2.0)
    missing = max(0.0, -short[0])
    slopes, orders = sharpening(record, near)
    slope, correlation = student(slopes), student(orders)
    of_cfg, in_pixels = sharpening(record, near, method="CFG")[1], sharpening(record, near, "pixels")[1]
    parts = {
        "inside it helps": inside[2] < 1,
        "outside the style is overshot": over[1] > 0,
        "directions sharpen in the order predicted: features": correlation[1] > 0.5,
        "directions sharpen in the order predicted: pixels": student(in_pixels)[1] > 0.5,
        "more so than CFG": student(orders - of_cfg)[1] > 0,
        "and by the amount predicted": slope[1] > 0.8 and slope[2] < 1.2,
    }
    return over_seeds(
        record,
        over,
        f"degrees that DoG at w = 2 turns digits beyond the target's, gap {far}",
        parts,
        f"{regime(record, gap=far)}: of the {over[0] - short[0]:.1f} degrees that DoG turns them, "
        f"{missing:.1f} complete what the fine-tune lacks and {over[0]:.1f} overshoot. Inside the source DoG "
        f"at w = {W} leaves {inside[0]:.2f} [{inside[1]:.2f}, {inside[2]:.2f}] of the Fréchet distance. Over "
        f"64 directions of features log std changes with correlation {correlation[0]:.2f} (CFG "
        f"{of_cfg.mean():.2f}, DoG in pixels {in_pixels.mean():.2f}) and slope {slope[0]:.2f} against the "
        f"closed form",
    )


def c17(record):
    at = lambda method, metric, w=W: values(record, metric, method=method, w=w)
    weights = record["config"]["weights"]
    found = {w: ratio(at("DogFit", "frechet", w), at("DoG", "frechet", w)) for w in weights}
    calls = at("DogFit", "calls").mean() / at("DoG", "calls").mean()
    parts = {f"within 10%: w = {w:g}": r[2] < 1.1 for w, r in found.items()}
    return over_seeds(
        record,
        found[W],
        f"Fréchet distance of DogFit relative to DoG, w = {W}",
        parts | {"half the calls": calls == 0.5},
        f"{regime(record)}; a field trained with weight 2 − 1/w settles at DoG of weight w; relative "
        "distance " + ", ".join(f"{r[0]:.2f} at {w:g}" for w, r in found.items()),
        LOGS,
    )
