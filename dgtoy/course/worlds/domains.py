"""Named 2-D transfer problems: a broad source, a narrow labelled target, and knobs for how they relate."""

import dataclasses
import math

import torch

from ...labelled import LabelledMixture
from ...train import Points

STD = 0.08  # thickness of every target's strokes
NAMES = ("moons", "spirals", "grid")


@dataclasses.dataclass(frozen=True)
class Domain:
    """A transfer problem whose densities are known: source and target, both with class labels."""

    name: str
    source: LabelledMixture
    target: LabelledMixture

    def data(self, size, seeds, device="cpu"):
        """`size` target points a class for each seed, the small data set that fine-tuning sees.

        Seed k's points do not depend on the other seeds, and its first n points a class are those of a smaller set.
        """
        if size < 1:
            raise ValueError(f"size is {size}; expected at least one point a class")
        classes = self.target.num_classes
        target = self.target.to("cpu")  # the same points whatever the device
        parts = [
            [
                _in_order(target.given(c), size, torch.Generator().manual_seed(7_919 * seed + c))
                for c in range(classes)
            ]
            for seed in seeds
        ]
        x0 = torch.stack([torch.cat(p) for p in parts])  # (S, classes * size, 2)
        label = torch.arange(classes).repeat_interleave(size).expand(len(parts), -1)
        return Points(x0, label.contiguous()).to(device)

    def to(self, device):
        """A copy on another device."""
        return Domain(self.name, self.source.to(device), self.target.to(device))


def make(name="moons", gap=0.0, breadth=1.0, classes=2, layout=0):
    """A transfer problem by name.

    name: "moons", "spirals" or "grid", the target's shape. gap: distance from the source's centre to the target's, in
    units of the source's half-width; beyond 1 the target leaves the source. breadth: width of the source relative to
    [-4, 4]^2. classes: of the target. layout: seed of the source's 40 random components.
    Raises ValueError for an unknown name, breadth <= 0, or fewer than one class.
    """
    shapes = {"moons": _moons, "spirals": _spirals, "grid": _grid}
    if name not in shapes:
        raise ValueError(f"name is {name!r}; expected one of {', '.join(NAMES)}")
    if not 0 < breadth < math.inf or not math.isfinite(gap):
        raise ValueError(f"gap, breadth are {gap}, {breadth}; expected a finite gap and a finite breadth > 0")
    if classes < 1:
        raise ValueError(f"classes is {classes}; expected at least 1")
    curves = shapes[name](classes)  # (classes, modes, 2)
    shift = torch.tensor([4.0 * gap, 0.0])
    modes = curves.shape[1]
    means = curves.reshape(-1, 2) + shift
    covs = (STD**2 * torch.eye(2)).expand(len(means), 2, 2)
    labels = torch.arange(classes).repeat_interleave(modes)
    target = LabelledMixture(torch.full((len(means),), 1 / len(means)), means, covs, labels)
    return Domain(name, _source(breadth, layout), target)


def _in_order(mixture, size, generator):
    """Samples of which the first n do not depend on `size`: torch.rand draws one by one, torch.randn does not."""
    u, radius, angle = torch.rand(size, 3, generator=generator).unbind(-1)
    angle = 2 * math.pi * angle
    z = (-2 * torch.log1p(-radius)).sqrt()[:, None] * torch.stack(
        [angle.cos(), angle.sin()], -1
    )  # Box & Muller 1958
    return mixture.from_noise(u, z)


def _source(breadth, layout, components=40, classes=10):
    g = torch.Generator().manual_seed(layout)
    rand = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float32).to(
        torch.get_default_dtype()
    )  # the same world in every precision
    means = breadth * (8 * rand(components, 2) - 4)
    angle = math.pi * rand(components)
    stds = breadth * (0.15 + 0.45 * rand(components, 2))
    axes = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], -2
    )
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
    """Arms of a spiral, one a class, evenly turned."""
    t = torch.linspace(0.25, 1, modes)
    turns = [2 * math.pi * c / classes for c in range(classes)]
    return torch.stack(
        [1.6 * t[:, None] * torch.stack([(4 * t + a).cos(), (4 * t + a).sin()], -1) for a in turns]
    )


def _grid(classes, side=4):
    """A side x side grid of clumps, its cells dealt to the classes in turn."""
    if classes > side * side:
        raise ValueError(f"classes is {classes}; a grid has room for {side * side}")
    i = torch.arange(side * side)
    place = torch.stack([i % side, i // side], -1) * 0.8 - 0.4 * (side - 1)
    per_class = side * side // classes
    deal = (i % side + i // side if classes <= side else i) % classes
    rows = [place[deal == c][:per_class] for c in range(classes)]
    fewest = min(len(r) for r in rows)
    return torch.stack([r[:fewest] for r in rows]).float()
