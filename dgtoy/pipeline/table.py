"""The paper's tables from scores on disk: one row a run, sorted, refused if the runs cannot be compared."""

import json
import pathlib

from .evaluate import comparable

SETTINGS = ("method", "w", "sampler", "steps", "step", "dropout", "rank", "guide")
METRICS = ("frechet", "precision", "recall", "density", "coverage")


def read(paths):
    """The scores that `evaluate` wrote. Raises ValueError if one is not, or two cannot be compared."""
    found = []
    for path in paths:
        result = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        if not {"scores", "manifest"} <= set(result):
            keys = ", ".join(list(result)[:4])
            raise ValueError(
                f"{path} holds {keys}; expected scores and manifest, as `dit evaluate` writes them"
            )
        found.append(result)
    return comparable(*found)


def table(results):
    """Rows as Markdown; a setting is shown if runs differ in it, the best Fréchet distance in bold."""
    rows = sorted((row(r) for r in results), key=lambda r: [str(r.get(name, "")) for name in SETTINGS])
    differing = [n for n in SETTINGS if n in ("method", "w") or len({str(r.get(n)) for r in rows}) > 1]
    best = min(r["frechet"] for r in rows)
    m = results[0]["manifest"]
    lines = [
        f"{m['samples']} samples against {m['references']} reference images; "
        f"features: {m['features']} ({m['weights']}), {m['resize']}",
        "",
        "| " + " | ".join([*differing, *METRICS]) + " |",
        "|" + "---|" * (len(differing) + len(METRICS)),
    ]
    for r in rows:
        frechet = f"{r['frechet']:.2f}"
        cells = [str(r.get(name, "")) for name in differing]
        cells.append(f"**{frechet}**" if r["frechet"] == best else frechet)
        cells += [f"{r[name]:.3f}" for name in METRICS[1:]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def row(result):
    """A run's settings and scores in one dict; without guidance its w is 1."""
    made = result["manifest"]["made"]
    settings = {name: made[name] for name in SETTINGS if name in made}
    if settings.get("method") == "none":
        settings["w"] = 1.0
    return settings | result["scores"]
