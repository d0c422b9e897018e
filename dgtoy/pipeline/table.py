"""The paper's tables from scores on disk: one row a run, sorted, refused if the runs cannot be compared."""

import math
import numbers
import pathlib

from .evaluate import COMPARED, comparable, saturated
from .manifest import read_json

SAMPLING = ("method", "w", "interval", "sampler", "steps", "channels", "fp8", "seed")
SETTINGS = (*SAMPLING, "step", "dropout", "rank", "finetuned", "guide")
METRICS = ("frechet", "precision", "recall", "density", "coverage", "saturated")
ENOUGH = 0.8  # of the best precision and coverage among the runs: with less, a distance is not set in bold


def read(paths):
    """The scores that `evaluate` wrote. Raises FileNotFoundError for a path that is no file, ValueError if
    one is not what it wrote, or two cannot be compared."""
    expected = "scores and manifest, as `dit evaluate` writes them"
    found = []
    for path in paths:
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(f"scores is {path}, which is no file; expected {expected}")
        result = read_json(path, expected)
        if not {"scores", "manifest"} <= set(result):
            raise ValueError(f"{path} holds {', '.join(list(result)[:4]) or 'nothing'}; expected {expected}")
        _check(path, **result)
        if not result["manifest"]["made"]:  # pictures from elsewhere are named by the file of their scores
            result["manifest"]["made"] = dict(method=pathlib.Path(path).stem)
        found.append(result)
    return comparable(*found)


def _check(path, scores, manifest, **_):
    """Raise ValueError for a score that is missing or no finite number, or a line of the manifest missing."""
    scores, manifest = (part if isinstance(part, dict) else {} for part in (scores, manifest))
    told = {name: scores.get(name) for name in METRICS if name != "saturated" or name in scores}
    for name, value in (*told.items(), ("saturated", manifest.get("saturated", 0.0))):
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ValueError(f"{path}: {name} is {value}; expected a finite number")
    missing = [name for name in (*COMPARED, "made") if name not in manifest]
    if missing or not isinstance(manifest["made"], dict):
        raise ValueError(
            f"{path}: its manifest says no {(missing or ['made'])[0]}; expected `dit evaluate`'s"
        )


def table(results):
    """Rows as Markdown; a setting is shown if runs differ in it.

    In bold is the smallest Fréchet distance among the rows without `faults`; below the rows is said which
    smaller ones are not, and why.
    """
    rows = sorted(map(row, results), key=lambda r: [str(r.get(name, "")) for name in SETTINGS])
    differing = [n for n in SETTINGS if n in ("method", "w") or len({str(r.get(n)) for r in rows}) > 1]
    shown = [name for name in METRICS if all(name in r for r in rows)]
    best = {name: max(r[name] for r in rows) for name in ("precision", "coverage")}
    sound = [r["frechet"] for r in rows if not faults(r, best)]
    m = results[0]["manifest"]
    lines = [
        f"{m['samples']} samples against {m['references']} reference images; "
        f"features: {m['features']} ({m['weights']}), {m['resize']}",
        "",
        "| " + " | ".join([*differing, *shown]) + " |",
        "|" + "---|" * (len(differing) + len(shown)),
    ]
    notes = []
    for r in rows:
        settings, frechet = [str(r.get(name, "")) for name in differing], f"{r['frechet']:.2f}"
        bold = r["frechet"] == min(sound, default=None)
        cells = [f"**{frechet}**" if bold else frechet, *(f"{r[name]:.3f}" for name in shown[1:])]
        lines.append("| " + " | ".join([*settings, *cells]) + " |")
        if faults(r, best) and r["frechet"] <= min(sound, default=r["frechet"]):
            notes.append(f"{' '.join(settings)} is not in bold: {', '.join(faults(r, best))}.")
    return "\n".join([*lines, *([""] if notes else []), *notes])


def faults(row, best):
    """What a distance does not tell of a run, in words: samples that are saturated, or whose precision or
    coverage is clearly below the best of the table."""
    low = [name for name in best if row[name] <= ENOUGH * best[name]]
    found = [f"{name} {row[name]:.2f}, the best is {best[name]:.2f}" for name in low]
    return found + (["its samples are saturated"] if row["is saturated"] else [])


def row(result):
    """A run's settings and scores in one dict; without guidance its w is 1."""
    made = result["manifest"]["made"]
    settings = {name: made[name] for name in SETTINGS if name in made}
    if settings.get("method") == "none":
        settings["w"] = 1.0
    if "interval" in settings:
        settings["interval"] = " to ".join("inf" if end is None else f"{end:g}" for end in made["interval"])
    return settings | result["scores"] | {"is saturated": saturated(result)}
