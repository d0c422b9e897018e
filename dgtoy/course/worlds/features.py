"""A feature network that names glyph, font and style of an image: the judge of the image worlds.

It is trained on a world wider than the source, so that it can also read targets that lie outside of it.
"""

import dataclasses
import math

import torch
from torch import nn

from .glyphs import FONTS, GLYPHS, KNOBS, SOURCE, World

SIZE = 64  # features
WIDE = World(ranges=tuple({**SOURCE, "rotation": (-90.0, 90.0)}.items()))


class FeatureNet(nn.Module):
    """Convolutions from an image (B, 3, 32, 32) to 64 features, and linear heads from these to glyph, font and style."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = (3, 32, 64, 96, 128)
            layers = []
            for i, o in zip(widths, widths[1:]):
                layers += [
                    nn.Conv2d(i, o, 3, 1 if i == 3 else 2, 1),
                    nn.GroupNorm(8, o),
                    nn.SiLU(),
                    nn.Conv2d(o, o, 3, 1, 1),
                    nn.GroupNorm(8, o),
                    nn.SiLU(),
                ]
            self.body = nn.Sequential(*layers, nn.Conv2d(128, 32, 1), nn.Flatten(), nn.Linear(32 * 16, SIZE))
            self.glyph, self.font, self.style = (
                nn.Sequential(nn.SiLU(), nn.Linear(SIZE, n))
                for n in (len(GLYPHS), len(FONTS), len(KNOBS) + 1)
            )

    def forward(self, x):
        """x (B, 3, 32, 32) -> features (B, 64)"""
        return self.body(x)

    @torch.no_grad()
    def read(self, x, batch=2048):
        """What the network sees in images.  x (n, 3, 32, 32) -> Reading"""
        if tuple(x.shape[1:]) != (3, 32, 32):
            raise ValueError(f"x has shape {tuple(x.shape)}; expected ('n', 3, 32, 32)")
        pieces = [self(part) for part in x.split(batch)]
        f = torch.cat(pieces)
        return Reading(
            f, self.glyph(f).log_softmax(-1), self.font(f).log_softmax(-1), style_of(self.style(f))
        )


@dataclasses.dataclass(frozen=True)
class Reading:
    """features (n, 64), log probabilities of glyph (n, 62) and font (n, 21), style (n, 11) in fractions of the source's ranges."""

    features: torch.Tensor
    glyph: torch.Tensor
    font: torch.Tensor
    style: torch.Tensor


def fractions(style):
    """Style knobs (..., 11) as fractions of the source's ranges: 0 and 1 are its edges."""
    lo, hi = torch.tensor([SOURCE[k] for k in KNOBS], dtype=style.dtype, device=style.device).T
    return (style - lo) / (hi - lo)


def style_of(out):
    """The style head's output (..., 12) as fractions (..., 11): the hue, a circle, is read as cosine and sine."""
    hue = torch.atan2(out[..., -1], out[..., KNOBS.index("hue")]) / (2 * math.pi) % 1
    return torch.cat([out[..., :7], hue[..., None], out[..., 8:11]], -1)


def loss_of(net, x, label, font, style):
    """Cross entropy of glyph and font plus 4 times the mean squared error of the style.  -> 0-d"""
    f = net(x)
    aim = fractions(style)
    angle = 2 * math.pi * aim[:, 7]
    aim = torch.cat([aim[:, :7], angle.cos()[:, None], aim[:, 8:], angle.sin()[:, None]], -1)
    entropy = nn.functional.cross_entropy
    return (
        entropy(net.glyph(f), label) + entropy(net.font(f), font) + 4 * (net.style(f) - aim).square().mean()
    )


def train(net, steps, batch=512, lr=1e-3, seed=0, device="cpu"):
    """Train on fresh images of the wide world, the rate falling to 0 along a cosine; yields the loss (0-d) of each step."""
    net.to(device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        label = torch.randint(len(GLYPHS), (batch,), generator=generator)
        x, label, font, style = WIDE.sample(batch, label.to(device), generator, device, details=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            loss = loss_of(net, x, label, font, style)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(), schedule.step()
        yield loss.detach()
    net.eval()


def accuracy(net, world, n=20_000, device="cpu", seed=1):
    """How well the network reads true images.  -> {"glyph": share right, "font": share right, knob: mean absolute error in fractions}"""
    x, label, font, style = world.sample(
        n, generator=torch.Generator().manual_seed(seed), device=device, details=True
    )
    own = torch.tensor([GLYPHS.index(g) for g in world.glyphs], device=device)
    seen = net.read(x)
    error = (seen.style - fractions(style)).abs()
    error[:, 7] = torch.minimum(error[:, 7] % 1, 1 - error[:, 7] % 1)
    right = lambda a, b: (a == b).float().mean().item()
    return dict(
        glyph=right(own[seen.glyph[:, own].argmax(-1)], own[label]),
        font=right(seen.font.argmax(-1), font),
        **dict(zip(KNOBS, error.mean(0).tolist(), strict=True)),
    )
