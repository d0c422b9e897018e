"""Writes worlds.js: the exact mixtures of the explorable page, taken from dgtoy.

    python book/explorable/worlds.py

Each world is given at gap 0 and breadth 1; the page moves the target and widens the source as
`dgtoy.course.worlds.domains.make` does.
"""

import json
import pathlib

import torch

from dgtoy import GaussianMixture, metrics
from dgtoy.course.worlds import domains

HERE = pathlib.Path(__file__).parent
TITLES = {"moons": "two moons", "spirals": "two spirals", "grid": "a grid of clumps"}


def mixture(m):
    """A mixture as plain lists; a covariance as its entries xx, xy, yy."""
    covs = m.covs[:, [0, 1, 1], [0, 0, 1]]  # (K, 3): the lower half, as eigh reads it
    return {
        name: round6(value) for name, value in (("weights", m.weights), ("means", m.means), ("covs", covs))
    }


def round6(value):
    """Nested lists with six digits after the point."""
    return [[round(v, 6) for v in row] if isinstance(row, list) else round(row, 6) for row in value.tolist()]


def stroke(name, means):
    """The line along which a class lies, as segments x1, y1, x2, y2. Thickness is measured from it."""
    ends = means if name == "grid" else means[1:]
    starts = means if name == "grid" else means[:-1]
    return round6(torch.cat([starts, ends], 1))


def transfer(name):
    """One of dgtoy's named problems, with class 0 asked for."""
    domain = domains.make(name)
    asked = domain.target.given(0)
    return dict(
        title=TITLES[name],
        source="blobs",
        domain=mixture(domain.target),
        asked=mixture(asked),
        cut=metrics.threshold(asked),
        stroke=stroke(name, asked.means),
        across=[domains.STD, domains.STD],
    )


def gaussians():
    """The three Gaussians of notebook 07, for which the closed form is exact."""
    gauss = lambda *std: GaussianMixture([1.0], torch.zeros(1, 2), torch.diag(torch.tensor(std) ** 2)[None])
    asked = gauss(0.7, 0.5)
    world = dict(
        title="three Gaussians (the formula is exact)",
        source="disc",
        domain=mixture(gauss(1.5, 0.5)),
        asked=mixture(asked),
        cut=metrics.threshold(asked),
        stroke=[[-9.0, 0.0, 9.0, 0.0]],
        across=[0.5, 0.5],
    )
    return world, mixture(gauss(1.5, 1.5))


def worlds():
    """Everything the page knows about the data: {"sources": {name: mixture}, "targets": {name: target}}."""
    gaussian, disc = gaussians()
    return dict(
        sources=dict(blobs=mixture(domains.make().source), disc=disc),
        targets={**{name: transfer(name) for name in domains.NAMES}, "gaussians": gaussian},
    )


if __name__ == "__main__":
    head = "// Written by worlds.py from dgtoy; do not edit. "
    head += "Means (x, y), covariances (xx, xy, yy), gap 0, breadth 1.\n"
    text = (
        json.dumps(worlds(), separators=(",", ":"))
        .replace('"targets"', '\n"targets"')
        .replace('},"', '},\n"')
    )
    (HERE / "worlds.js").write_text(f"{head}globalThis.dgtoy = {{ data: {text} }};\n")
