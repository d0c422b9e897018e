"""The paper's tables from scores on disk: one row a run, sorted, refused if the runs cannot be compared."""

import json
import pathlib

from .evaluate import comparable

COLUMNS = (
    "method",
    "w",
    "sampler",
    "steps",
    "step",
    "dropout",
    "rank",
    "guide",
    "frechet",
    "precision",
    "recall",
    "density",
    "coverage",
)


def read(paths):
    """The scores that `evaluate` wrote. Raises ValueError if a file is not one."""
    found = []
    for path in paths:
        result = json.loads(pathlib.Path(path).read_text())
        if not {"scores", "manifest"} <= set(result):
            raise ValueError(
                f"{path} holds {', '.join(list(result)[:4])}; expected scores and manifest, as `dit evaluate` writes them"
            )
        found.append(result)
    return comparable(*found)


def table(results):
    """Rows as Markdown; a column is shown if runs differ in it, the Fréchet distance of the best row in bold."""
    rows = [row(r) for r in results]
    rows.sort(key=lambda r: tuple(str(r.get(c, "")) for c in COLUMNS[:8]))
    metrics = ("frechet", "precision", "recall", "density", "coverage")
    shown = [
        c for c in COLUMNS if c in metrics or c in ("method", "w") or len({str(r.get(c)) for r in rows}) > 1
    ]
    best = min(r["frechet"] for r in rows)
    cell = lambda r, c: (
        f"**{r[c]:.2f}**"
        if c == "frechet" and r[c] == best
        else f"{r[c]:.2f}"
        if c == "frechet"
        else f"{r[c]:.3f}"
        if c in metrics
        else str(r.get(c, ""))
    )
    m = results[0]["manifest"]
    lines = [
        f"{m['samples']} samples against {m['references']} reference images; features: {m['features']} ({m['weights']}), {m['resize']}",
        "",
        "| " + " | ".join(shown) + " |",
        "|" + "---|" * len(shown),
    ]
    return "\n".join(lines + ["| " + " | ".join(cell(r, c) for c in shown) + " |" for r in rows])


def row(result):
    """A run's settings and scores in one dict."""
    made = result["manifest"]["made"]
    settings = {
        k: made[k]
        for k in ("method", "w", "sampler", "steps", "step", "dropout", "rank", "guide")
        if k in made
    }
    if settings.get("method") == "none":
        settings["w"] = 1.0
    return settings | result["scores"]
