"""Named 2-D transfer problems: a broad source, a narrow labelled target, and how far apart they lie."""

import dataclasses
import math
import numbers

import torch

from ...checks import check_seed
from ...gmm import LabelledMixture
from ...train import Points

STD = 0.08  # standard deviation of every component of a target: the thickness of its strokes
HALF_WIDTH = 4.0  # of the source at breadth 1, whose components lie in [-4, 4]^2


@dataclasses.dataclass(frozen=True)
class Domain:
    """A transfer problem whose densities are known: its source and its target, both with class labels."""

    name: str
    source: LabelledMixture
    target: LabelledMixture

    def data(self, size, seeds, device="cpu"):
        """`size` target points per class for each of S seeds: the small data sets that fine-tuning sees.

        -> Points with x0 (S, classes * size, 2) and label likewise, class by class. A seed's points
        do not depend on the other seeds, and its first n points of a class are those of a smaller set.
        """
        if size < 1:
            raise ValueError(f"size is {size}; expected at least one point per class")
        target = self.target.to("cpu")  # the same points whatever the device
        classes = range(target.num_classes)

        def points(seed):
            streams = [torch.Generator().manual_seed(7_919 * check_seed("seed", seed) + c) for c in classes]
            return torch.cat([_in_order(target.given(c), size, streams[c]) for c in classes])

        x0 = torch.stack([points(seed) for seed in seeds])
        label = torch.tensor(classes).repeat_interleave(size).expand(len(x0), -1)
        return Points(x0, label.contiguous()).to(device)

    def to(self, device):
        """A copy on another device."""
        return Domain(self.name, self.source.to(device), self.target.to(device))


class PerSeed:
    """A labelled mixture of its own for each of S seeds: data to train an ensemble on, and exact members."""

    def __init__(self, mixtures):
        self.mixtures, self.num_classes, self.null = mixtures, mixtures[0].num_classes, mixtures[0].null

    def draw(self, u, z):
        """u (S, ...) uniform, z (S, ..., D) normal -> x0 (S, ..., D), label (S, ...)"""
        drawn = [m.draw(u[k], z[k]) for k, m in enumerate(self.mixtures)]
        x0, label = zip(*drawn)
        return torch.stack(x0), torch.stack(label)

    def denoiser(self, label):
        """D(x (S, n, D), sigma ()): each seed's points by its own mixture."""
        members = [m.denoiser(label) for m in self.mixtures]
        return lambda x, sigma: torch.stack([D(part, sigma) for D, part in zip(members, x, strict=True)])


def make(name="moons", gap=0.0, breadth=1.0, classes=2, layout=0):
    """A transfer problem by name: q(x | c) is the mean of N(x; mu_cm + (4 gap, 0), STD^2) over its modes m.

    name: "moons", "spirals" or "grid", the shape of the target. gap: distance from the source's centre to the
    target's in half-widths of the source; beyond 1 the target leaves the source. breadth: width of the source
    relative to [-4, 4]^2. classes: of the target. layout: seed of the source's 40 random components.
    Raises ValueError for a name, gap, breadth, number of classes or layout that makes no problem.
    """
    if name not in NAMES:
        raise ValueError(f"name is {name!r}; expected one of {', '.join(NAMES)}")
    if not isinstance(gap, numbers.Real) or not math.isfinite(gap):
        raise ValueError(f"gap is {gap!r}; expected a finite number")
    if not isinstance(breadth, numbers.Real) or not 0 < breadth < math.inf:
        raise ValueError(f"breadth is {breadth!r}; expected a finite number above 0")
    if not isinstance(classes, numbers.Integral) or classes < 1:
        raise ValueError(f"classes is {classes!r}; expected a whole number of at least 1")
    if not isinstance(layout, numbers.Integral):
        raise ValueError(f"layout is {layout!r}; expected a whole number, the seed of the source")
    curves = SHAPES[name](classes)  # (classes, modes, 2)
    means = curves.flatten(0, 1) + torch.tensor([HALF_WIDTH * gap, 0.0])  # (K, 2)
    weights = torch.full((len(means),), 1 / len(means))
    covs = (STD**2 * torch.eye(2)).expand(len(means), 2, 2)
    labels = torch.arange(classes).repeat_interleave(curves.shape[1])
    return Domain(name, _source(breadth, layout), LabelledMixture(weights, means, covs, labels))


def _in_order(mixture, size, generator):
    """Samples (size, 2) of which the first n do not depend on `size`.

    torch.rand draws its numbers one by one, torch.randn does not; so the normals come from uniforms, by
    Box & Muller 1958.
    """
    u, radius, angle = torch.rand(size, 3, generator=generator).unbind(-1)
    angle = 2 * math.pi * angle
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    z = (-2 * torch.log1p(-radius)).sqrt()[:, None] * direction  # (size, 2), standard normal
    return mixture.from_noise(u, z)


def _source(breadth, layout, components=40, classes=10):
    """Gaussians of random place, direction and width over breadth * [-4, 4]^2, of each class in turn."""
    g = torch.Generator().manual_seed(check_seed("layout", layout))

    def rand(*shape):  # the same numbers in every precision
        return torch.rand(*shape, generator=g, dtype=torch.float32).to(torch.get_default_dtype())

    means = breadth * HALF_WIDTH * (2 * rand(components, 2) - 1)
    angle = math.pi * rand(components)
    stds = breadth * (0.15 + 0.45 * rand(components, 2))
    cos, sin = angle.cos(), angle.sin()
    axes = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))  # (K, 2, 2), rotations
    covs = axes * stds[:, None, :] ** 2 @ axes.mT
    weights = 0.5 + rand(components)
    return LabelledMixture(weights / weights.sum(), means, covs, torch.arange(components) % classes)


def _moons(classes, modes=16):
    """Half circles of radius 1, each turned and moved so that it reaches into the next."""
    t = torch.linspace(0, math.pi, modes)
    arcs = []
    for c in range(classes):
        up = 1 if c % 2 == 0 else -1
        centre = torch.tensor([c - (classes - 1) / 2, -0.25 * up])
        arcs.append(torch.stack([t.cos(), up * t.sin()], -1) + centre)
    return torch.stack(arcs)


def _spirals(classes, modes=16):
    """The arms of a spiral, one per class, evenly turned: 1.6 t (cos, sin)(4 t + 2 pi c / classes)."""
    t = torch.linspace(0.25, 1, modes)
    arms = []
    for c in range(classes):
        angle = 4 * t + 2 * math.pi * c / classes
        arms.append(1.6 * t[:, None] * torch.stack([angle.cos(), angle.sin()], -1))
    return torch.stack(arms)


def _grid(classes, side=4):
    """A side x side grid of clumps, its cells dealt to the classes in turn."""
    if classes > side * side:
        raise ValueError(f"classes is {classes}; expected at most {side * side}, the cells of the grid")
    i = torch.arange(side * side)
    place = torch.stack([i % side, i // side], -1) * 0.8 - 0.4 * (side - 1)
    deal = (i % side + i // side if classes <= side else i) % classes
    cells = [place[deal == c] for c in range(classes)]
    fewest = min(len(c) for c in cells)  # classes are equally heavy
    return torch.stack([c[:fewest] for c in cells]).float()


SHAPES = {"moons": _moons, "spirals": _spirals, "grid": _grid}
NAMES = tuple(SHAPES)
