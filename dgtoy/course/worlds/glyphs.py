"""Image worlds whose truth is unlimited: letters and digits in matplotlib's own fonts, in many styles.

Every glyph of every font is kept as a signed distance to its outline. An image is a lookup in that map
through a rotation, shear, scale and shift; a threshold gives the stroke, its softness the blur. So an image
is a smooth function of a glyph, a font and eleven knobs of style, cheap enough to draw each training batch
afresh, on a CPU or a GPU alike.
"""

import dataclasses
import functools
import math
import pathlib
import string

import torch
from torch.nn.functional import affine_grid, grid_sample

from ...checks import check_seed

GLYPHS = string.digits + string.ascii_uppercase + string.ascii_lowercase
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmti10",
    "cmtt10",
)
ATLAS = 64  # side of a distance map; it spans 2 units, the image's frame at scale 1

# style knobs and the source's range of each
SOURCE = {
    "rotation": (-45.0, 45.0),  # degrees
    "shear": (-0.5, 0.5),
    "scale": (0.9, 1.6),
    "x": (-0.25, 0.25),  # of half the image
    "y": (-0.25, 0.25),
    "weight": (-0.03, 0.06),  # added to the stroke on each side, in units of half the image
    "blur": (0.02, 0.12),  # width of the edge, likewise
    "hue": (0.0, 1.0),  # of the ink, once around the circle
    "contrast": (0.5, 1.0),  # 1: the ink is as dark as its hue allows
    "paper": (0.65, 1.0),  # lightness of the background
    "texture": (0.0, 0.15),  # amplitude of the paper's grain
}
KNOBS = tuple(SOURCE)


@dataclasses.dataclass(frozen=True)
class World:
    """A distribution over labelled images (3, size, size) in [-1, 1]; `World()` is the broad source.

    glyphs: its classes. fonts: of FONTS. ranges: (knob, (lowest, highest)) for each of KNOBS. A sample has a
    glyph, a font and a value of each knob, all independent and uniform.
    Raises ValueError for glyphs, fonts, ranges or a size that make no images.
    """

    glyphs: str = GLYPHS
    fonts: tuple = FONTS
    ranges: tuple = tuple(SOURCE.items())
    size: int = 32

    def __post_init__(self):
        for name, given, known in (("glyphs", self.glyphs, [*GLYPHS]), ("fonts", self.fonts, FONTS)):
            unknown = [g for g in given if g not in known]
            if unknown or not given:
                came = repr(unknown[0]) if unknown else "nothing"
                raise ValueError(f"{name} holds {came}; expected some of {', '.join(known[:3])}, ...")
        knobs = ", ".join(KNOBS)
        absent = [k for k in KNOBS if k not in dict(self.ranges)]
        if absent:
            raise ValueError(f"ranges holds nothing for {absent[0]}; expected a range for each of {knobs}")
        for knob, (low, high) in self.ranges:
            if knob not in KNOBS or not low <= high or not math.isfinite(low + high):
                raise ValueError(
                    f"ranges holds {knob}: ({low}, {high}); expected finite low <= high for one of {knobs}"
                )
        if self.size < 1:
            raise ValueError(f"size is {self.size}; expected at least 1 pixel")

    @property
    def num_classes(self):
        return len(self.glyphs)

    def styles(self, u):
        """Values of the knobs from uniforms.  u (..., 11) in [0, 1) -> (..., 11), columns as in KNOBS"""
        low, high = torch.tensor([dict(self.ranges)[k] for k in KNOBS], dtype=u.dtype, device=u.device).T
        return low + (high - low) * u

    def draw(self, u, z):
        """Labelled images from uniforms u (...) and normals z (..., 14 or more), as training asks for them.

        -> x0 (..., 3, size, size), label (...)
        """
        label = (u * self.num_classes).long().clamp_(max=self.num_classes - 1)
        v = torch.special.ndtr(z[..., : 3 + len(KNOBS)]).clamp(max=1 - 2**-24)
        return self._images(label, v), label

    def sample(self, n, label=None, generator=None, device="cpu", details=False):
        """n true images.  -> x0 (n, 3, size, size), label (n,); with `details` also font (n,), style (n, 11)

        label: a class for all, or (n,); by default the classes in equal shares, in turn. Random numbers are
        drawn on the generator's device: from one on the CPU, images are alike on every device, to rounding.
        Raises ValueError for n below 1 and for labels that are not n classes of this world.
        """
        if n < 1:
            raise ValueError(f"n is {n}; expected 1 or more")
        source = generator.device if generator is not None else "cpu"
        v = torch.rand(n, 3 + len(KNOBS), generator=generator, device=source).to(device)
        if label is None:
            label = torch.arange(n) % self.num_classes
        label = self._label(torch.as_tensor(label), n).to(device)
        x0 = self._images(label, v)
        if details:
            return x0, label, self._font(v), self.styles(v[..., 3:])
        return x0, label

    def _label(self, label, n):
        """label () or (n,) as (n,), if all are classes of this world."""
        if label.shape not in ((), (n,)) or label.is_floating_point() or label.dtype == torch.bool:
            came = f"shape {tuple(label.shape)}, dtype {label.dtype}"
            raise ValueError(f"label has {came}; expected () or ({n},), integers")
        wrong = label[(label < 0) | (label >= self.num_classes)].flatten()
        if len(wrong):
            raise ValueError(f"label {int(wrong[0])} is out of range for {self.num_classes} classes")
        return label.expand(n)

    def _font(self, v):
        """Indices into FONTS from uniforms."""
        own = torch.tensor([FONTS.index(f) for f in self.fonts], device=v.device)
        return own[(v[..., 0] * len(own)).long()]

    def _images(self, label, v):
        """label (...), v (..., 14) uniform: font, two of the grain, the knobs.  -> (..., 3, size, size)"""
        own = torch.tensor([GLYPHS.index(g) for g in self.glyphs], device=v.device)
        glyph, font = own[label].flatten(), self._font(v).flatten()
        style, grain = self.styles(v[..., 3:]).flatten(0, -2), v[..., 1:3].flatten(0, -2)
        pieces = zip(*(part.split(4096) for part in (glyph, font, style, grain)), strict=True)
        return torch.cat([render(*piece, self.size) for piece in pieces]).unflatten(0, label.shape)


def target(classes=10, narrow=0.2, gap=0.0, fonts=4, size=32, layout=0):
    """The World that a model is fine-tuned on: few glyphs, few fonts, every knob in a narrow range.

    classes: 10 digits, or up to 62 glyphs. narrow: width of each range relative to the source's. gap: where
    the range of rotation lies, in half-widths of the source from its centre: 0 inside, 1 at its edge, beyond
    1 outside. fonts: how many, serif ones first. layout: 0 is the course's target; with any other, the fonts
    and the place of every range inside the source's are drawn from that seed.
    Raises ValueError for narrow outside (0, 1], a negative gap, or more classes or fonts than there are.
    """
    if not 0 < narrow <= 1:
        raise ValueError(f"narrow is {narrow}; expected 0 < narrow <= 1")
    if not 0 <= gap < math.inf:
        raise ValueError(f"gap is {gap}; expected a finite gap >= 0")
    if not 1 <= classes <= len(GLYPHS):
        raise ValueError(f"classes is {classes}; expected 1 to {len(GLYPHS)}")
    if not 1 <= fonts <= len(FONTS):
        raise ValueError(f"fonts is {fonts}; expected 1 to {len(FONTS)}")
    order, centre = _layout(layout, narrow)
    centre["rotation"] = 0.5 + gap / 2
    ranges = tuple((knob, _within(SOURCE[knob], centre[knob], narrow)) for knob in KNOBS)
    return World(GLYPHS[:classes], order[:fonts], ranges, size)


def _layout(layout, narrow):
    """The order in which a target takes its fonts, and {knob: middle of its range in fractions of SOURCE}."""
    if layout == 0:
        serif = ("DejaVuSerif", "STIXGeneral", "cmr10", "DejaVuSerif-Bold")
        highest = 1 - narrow / 2  # of contrast and paper: above the source's edge colours leave [-1, 1]
        centre = dict.fromkeys(KNOBS, 0.5)
        centre |= {"hue": 0.6, "contrast": min(0.85, highest), "paper": min(0.8, highest)}
        return serif + tuple(f for f in FONTS if f not in serif), centre
    g = torch.Generator().manual_seed(check_seed("layout", layout))
    fonts = tuple(FONTS[i] for i in torch.randperm(len(FONTS), generator=g).tolist())
    middle = narrow / 2 + (1 - narrow) * torch.rand(len(KNOBS), generator=g, dtype=torch.float64)
    return fonts, dict(zip(KNOBS, middle.tolist(), strict=True))


def _within(full, centre, narrow):
    """A range of relative width `narrow` around the fraction `centre` of another range."""
    low, high = full
    return low + (high - low) * (centre - narrow / 2), low + (high - low) * (centre + narrow / 2)


def render(glyph, font, style, grain, size=32):
    """Images.  glyph, font (B,) indices, style (B, 11), grain (B, 2) in [0, 1) -> (B, 3, size, size)

    ink(p) = smoothstep((distance(A p) + weight) / blur + 1/2), A the placement of the glyph;
    image(p) = 2 paper (1 - texture grain(p)) (1 - contrast tint(hue) ink(p)) - 1, in [-1, 1].
    """
    knob = dict(zip(KNOBS, style.unbind(-1), strict=True))
    where = affine_grid(_placement(knob), (len(style), 1, size, size), align_corners=False)
    maps = atlas(style.device)[font, glyph][:, None]  # (B, 1, 64, 64)
    distance = grid_sample(maps, where, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]
    ink = (distance + _each(knob["weight"])) / _each(knob["blur"].clamp(min=1 / size)) + 0.5
    ink = ink.clamp(0, 1)
    ink = ink * ink * (3 - 2 * ink)  # (B, size, size), a smooth step
    thirds = torch.arange(3, device=style.device) / 3
    hue = torch.cos(2 * math.pi * (knob["hue"][:, None] - thirds))
    tint = 1 - 0.9 * (0.5 + 0.5 * hue)  # (B, 3): what the ink absorbs
    paper = _each(knob["paper"]) * (1 - _each(knob["texture"]) * _grain(grain, size))  # (B, size, size)
    image = paper[:, None] * (1 - _each(knob["contrast"])[:, None] * tint[..., None, None] * ink[:, None])
    return 2 * image - 1


def _each(a):
    """A number per image (B,), ready to meet its pixels: (B, 1, 1)."""
    return a[:, None, None]


def _placement(knob):
    """The affine map (B, 2, 3) from a pixel's place p in the image to its place on the glyph.

    It undoes what is seen: (1 / scale) (1, shear; 0, 1) R(-rotation) (p - shift).
    """
    angle, shear, inverse = knob["rotation"] * math.pi / 180, knob["shear"], 1 / knob["scale"]
    cos, sin = angle.cos(), angle.sin()
    a, b = (cos + shear * -sin) * inverse, (sin + shear * cos) * inverse
    c, d = -sin * inverse, cos * inverse
    dx, dy = knob["x"], knob["y"]
    rows = [a, b, -(a * dx + b * dy), c, d, -(c * dx + d * dy)]
    return torch.stack(rows, -1).unflatten(-1, (2, 3))


def _grain(grain, size):
    """The paper's grain in [0, 1]: one plane wave per image.

    grain (B, 2) in [0, 1): its direction and phase, uniform around the circle. -> (B, size, size)
    """
    p = torch.linspace(-1, 1, size, device=grain.device)
    direction, phase = (2 * math.pi * grain).unbind(-1)
    wave = 7 * (_each(direction.cos()) * p + _each(direction.sin()) * p[:, None]) + _each(phase)
    return 0.5 + 0.5 * wave.cos()


@functools.lru_cache(maxsize=4)
def atlas(device="cpu"):
    """Signed distances to the outline, positive inside, in halves of the image.  -> (fonts, glyphs, 64, 64)

    Drawn once on the CPU at 192 pixels; capitals are 0.9 units high. Every glyph is centred: up and down by
    its outline, sideways by the box that its font gives it, up to 0.15 units beside the outline's middle.
    Raises FileNotFoundError for a font that this matplotlib does not ship, ValueError for a missing glyph.
    """
    return _drawn().to(device)


@functools.cache
def _drawn():
    return torch.stack([torch.stack([torch.from_numpy(a) for a in font_maps(f)]) for f in FONTS])


def font_maps(font):
    """The distance maps of one font's 62 glyphs, arrays (64, 64)."""
    import matplotlib
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    path = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    if not path.exists():
        where = f"matplotlib {matplotlib.__version__}"
        raise FileNotFoundError(f"font {font} is not among those of {where} ({path.name} is missing)")
    known = FT2Font(str(path)).get_charmap()
    lacking = [g for g in GLYPHS if ord(g) not in known]
    if lacking:
        raise ValueError(f"font {font} has no glyph {lacking[0]!r}; expected all of {GLYPHS[:3]}...")
    high = ImageFont.truetype(str(path), 200).getbbox("H", anchor="ls")
    fitted = ImageFont.truetype(str(path), round(200 * 0.45 * 3 * ATLAS / -high[1]))
    return [_distance(fitted, g) for g in GLYPHS]


def _distance(font, glyph, fine=3 * ATLAS):
    """Draw a glyph on a fine square, measure distances to its edge, keep every third.  -> (64, 64) float32"""
    import numpy as np
    from PIL import Image, ImageDraw

    left, top, right, bottom = font.getbbox(glyph, anchor="ls")
    corner = (fine - left - right) / 2, (fine - top - bottom) / 2
    canvas = Image.new("L", (fine, fine))
    ImageDraw.Draw(canvas).text(corner, glyph, fill=255, font=font, anchor="ls")
    return (to_edge(np.asarray(canvas) > 127) * (2 / fine))[1::3, 1::3].astype("float32")


def to_edge(inside):
    """Distances in pixels to the edge of a shape, positive inside.  (n, n) of booleans -> (n, n)"""
    import numpy as np
    from scipy.ndimage import distance_transform_edt as edt

    ink = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    box = tuple(slice(max(at[0] - 1, 0), at[-1] + 2) for at in ink)  # and the pixels next to it
    distance = 0.5 - edt(~inside)
    distance[box] = np.where(inside[box], edt(inside[box]) - 0.5, distance[box])
    return distance


def digits(size=32):
    """scikit-learn's 1,797 handwritten digits as images of such a world: grey, blurred up from 8 x 8.

    -> x0 (1797, 3, size, size), label (1797,)
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    ink = torch.from_numpy(data.images).float()[:, None] / 16
    ink = torch.nn.functional.interpolate(ink, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return (1 - 2 * ink).expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(data.target)
