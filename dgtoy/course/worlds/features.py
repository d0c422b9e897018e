"""How the judge of the image worlds, `shipped.judge.FeatureNet`, is trained, and how well it reads.

It is trained on a world wider than the source, so that it can also read targets that lie outside of it.
"""

import math

import torch
from torch import nn

from ...shipped.judge import HUE
from ...trainer import Trainer, generator
from .glyphs import GLYPHS, KNOBS, SOURCE, World

WIDE = World(ranges=tuple({**SOURCE, "rotation": (-90.0, 90.0)}.items()))


def fractions(style):
    """Style knobs (..., 11) as fractions of the source's ranges: 0 and 1 are its edges."""
    low, high = torch.tensor([SOURCE[k] for k in KNOBS], dtype=style.dtype, device=style.device).T
    return (style - low) / (high - low)


def loss_of(net, x, label, font, style):
    """Cross entropy of glyph and font plus 4 times the mean squared error of the style.  -> 0-d"""
    f = net(x)
    aim = fractions(style)
    angle = 2 * math.pi * aim[:, HUE]
    aim = torch.cat([aim[:, :HUE], angle.cos()[:, None], aim[:, HUE + 1 :], angle.sin()[:, None]], -1)
    entropy = nn.functional.cross_entropy
    return (
        entropy(net.glyph(f), label) + entropy(net.font(f), font) + 4 * (net.style(f) - aim).square().mean()
    )


def train(net, recipe, seed=0):
    """Train a `FeatureNet` on fresh images of the wide world, on its own device; a generator of `Step`. Then
    it is in evaluation mode."""
    device = next(net.parameters()).device

    def batch_fn(step):
        g = generator(seed, step)
        label = torch.randint(len(GLYPHS), (recipe.batch,), generator=g)
        return WIDE.sample(recipe.batch, label.to(device), g, device, details=True)

    net.train()
    yield from Trainer(net, _loss, recipe).run(batch_fn)
    net.eval()


def _loss(net, x, label, font, style):
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
        return loss_of(net, x, label, font, style)


def accuracy(net, world, n=20_000, device="cpu", seed=1):
    """How well the network reads true images.  -> {"glyph": share right, "font": share right, knob: mean
    absolute error in fractions}"""
    x, label, font, style = world.sample(
        n, generator=torch.Generator().manual_seed(seed), device=device, details=True
    )
    own = torch.tensor([GLYPHS.index(g) for g in world.glyphs], device=device)
    seen = net.read(x)
    error = (seen.style - fractions(style)).abs()
    error[:, HUE] = torch.minimum(error[:, HUE] % 1, 1 - error[:, HUE] % 1)
    right = lambda a, b: (a == b).float().mean().item()
    return dict(
        glyph=right(own[seen.glyph[:, own].argmax(-1)], own[label]),
        font=right(seen.font.argmax(-1), font),
        **dict(zip(KNOBS, error.mean(0).tolist(), strict=True)),
    )
