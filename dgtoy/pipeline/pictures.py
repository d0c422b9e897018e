"""One picture: opened, whatever its file holds, and cut to a square."""

import contextlib
import io
import os
import pathlib
import warnings
from typing import NamedTuple

import numpy as np
import torch

GREY_STEPS = {"L;2": 85, "L;4": 17}  # of a grey PNG of 2 or 4 bits, in 8


def open_picture(source, name=None):
    """A picture in RGB, upright, transparency laid on white, of an animation the first frame.

    source: a path, an open file, an array (H, W, 3) uint8, or a PIL image, as hub data sets hold. name: what
    an error calls it. Raises ValueError, one line, naming what cannot be read.
    """
    from PIL import Image

    name = name or (source if isinstance(source, str | pathlib.Path) else type(source).__name__)
    with _named(name, source):
        if isinstance(source, np.ndarray):
            source = Image.fromarray(source)
        opened = Image.open(source) if not isinstance(source, Image.Image) else contextlib.nullcontext(source)
        with opened as image:
            frames = getattr(image, "n_frames", 1)
            rgb = _in_rgb(image)
    if frames > 1 and image.format != "MPO":  # a phone's MPO holds one picture and its previews
        warnings.warn(f"image {name} holds {frames} frames; the first is read", stacklevel=2)
    return rgb


class Look(NamedTuple):
    """What `look` sees of a picture: its sides in pixels, whether it has colour."""

    size: tuple
    coloured: bool


def look(source, name):
    """A picture read to its end, a JPEG at an eighth of its size and so quickly. Raises as `open_picture`.

    -> Look
    """
    from PIL import Image

    with _named(name, source), Image.open(source) as image:
        size = image.size
        image.draft("RGB", (1, 1))
        few = np.asarray(_in_rgb(image).resize((32, 32), Image.Resampling.BOX)).astype(int)  # (32, 32, 3)
    return Look(size, bool((few.max(2) - few.min(2)).max() > 16))  # grey JPEGs are not quite grey


@contextlib.contextmanager
def _named(name, source):
    """The block reads a picture: whatever it raises becomes a ValueError of one line with this name."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except Exception as e:
        why = _no_picture(source) if isinstance(e, UnidentifiedImageError) else str(e)[:80]
        raise ValueError(f"image {name} cannot be read ({type(e).__name__}: {why})") from None


def _no_picture(source):
    """What a file is that is no picture, by its first bytes."""
    if isinstance(source, str | os.PathLike):
        source = io.BytesIO(pathlib.Path(source).read_bytes()[:64])
    source.seek(0)
    head = source.read(64)
    if not head:
        return "it is empty"
    if head[4:10] in (b"ftyphe", b"ftypmi"):
        return "it is HEIC; save it as JPEG"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs; run `git lfs pull`"
    if head.lstrip().startswith(b"<"):
        return "it is HTML or XML, as a failed download leaves"
    return "it is no kind of picture that is known"


def _in_rgb(image):
    from PIL import Image, ImageOps

    coded = image.tile[0][3] if getattr(image, "tile", None) else None  # how the file holds its pixels
    image = ImageOps.exif_transpose(image)
    hidden = image.info.get("transparency")  # a colour, in the file's own bits
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)
        image = Image.fromarray((pixels / 257).round().astype(np.uint8))
        if hidden is not None:
            image.putalpha(Image.fromarray(np.where(pixels == hidden, 0, 255).astype(np.uint8)))
    elif hidden is not None and coded == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in hidden)  # as PIL reads the pixels
    elif hidden is not None and coded in GREY_STEPS:
        image.info["transparency"] = GREY_STEPS[coded] * hidden
    elif image.mode in ("I", "F"):
        raise ValueError(
            f"its mode is {image.mode}, whose range is not known; expected 8 or 16 bits a channel"
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
    return image.convert("RGB")


def centre_crop(image, size):
    """The central square at `size` pixels, PIL image -> (3, size, size) uint8.

    Halved by box filter while twice too large, then bicubic: Dhariwal & Nichol 2021's arithmetic, with which
    DiT was trained.
    """
    from PIL import Image

    while min(image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)  # (H, W, 3)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return torch.from_numpy(pixels[top : top + size, left : left + size].copy()).permute(2, 0, 1)


def to_uint8(x):
    """Images in [-1, 1] as bytes, as the official code rounds them.  (B, C, H, W) -> (B, C, H, W) uint8"""
    return (127.5 * x + 128).clamp(0, 255).to(torch.uint8)
