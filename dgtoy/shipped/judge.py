"""The network that names glyph, font and style of a small image: the judge of the worlds of glyphs."""

import dataclasses
import itertools
import math

import torch
from torch import nn

from ..checks import check_seed

SIZE = 64  # features
HUE = 7  # the style knob that is a circle


class FeatureNet(nn.Module):
    """Convolutions from an image (B, 3, 32, 32) to 64 features; linear heads to glyph, font and style.

    glyphs, fonts, knobs: how many there are. The style head gives knobs + 1 numbers: cosine of the hue in its
    place, sine last.
    """

    def __init__(self, glyphs=62, fonts=21, knobs=11, seed=0):
        super().__init__()
        self.config = dict(glyphs=glyphs, fonts=fonts, knobs=knobs)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(check_seed("seed", seed))
            layers = []
            for i, o in itertools.pairwise((3, 32, 32, 64, 64, 96, 96, 128, 128)):
                stride = 2 if o > i > 3 else 1  # where it widens: 32 pixels, 16, 8, 4
                layers += [nn.Conv2d(i, o, 3, stride, 1), nn.GroupNorm(8, o), nn.SiLU()]
            self.body = nn.Sequential(*layers, nn.Conv2d(128, 32, 1), nn.Flatten(), nn.Linear(32 * 16, SIZE))
            head = lambda n: nn.Sequential(nn.SiLU(), nn.Linear(SIZE, n))
            self.glyph, self.font, self.style = head(glyphs), head(fonts), head(knobs + 1)

    def forward(self, x):
        """x (B, 3, 32, 32) -> features (B, 64)"""
        return self.body(x)

    @torch.no_grad()
    def read(self, x, batch=2048):
        """What the network sees in images.  x (n, 3, 32, 32) -> Reading. Raises ValueError for others."""
        if tuple(x.shape[1:]) != (3, 32, 32):
            raise ValueError(f"x has shape {tuple(x.shape)}; expected ('n', 3, 32, 32)")
        f = torch.cat([self(part) for part in x.split(batch)])
        glyph, font = self.glyph(f).log_softmax(-1), self.font(f).log_softmax(-1)
        return Reading(f, glyph, font, style_of(self.style(f)))


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """features (n, 64), log probabilities of glyph and font (n, how many), style (n, knobs) in [0, 1]."""

    features: torch.Tensor
    glyph: torch.Tensor
    font: torch.Tensor
    style: torch.Tensor


def style_of(out):
    """The style head's output (..., knobs + 1) as fractions (..., knobs): the hue from cosine and sine."""
    hue = torch.atan2(out[..., -1], out[..., HUE]) / (2 * math.pi) % 1
    return torch.cat([out[..., :HUE], hue[..., None], out[..., HUE + 1 : -1]], -1)
