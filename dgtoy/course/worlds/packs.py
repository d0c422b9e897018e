"""Pictures of 64 pixels in one small file: mosaics of 32 x 32 of them as JPEG, their labels, their classes.

A JPEG's blocks of 8 or 16 pixels divide the tiles, so pictures do not mix, but for the colour of their
outermost pixels, which a decoder smooths.
"""

import io

import numpy as np
import torch

from ...checkpoint import whole

SIDE = 64  # pixels of a picture
TILES = 32  # pictures in a row of a mosaic, and rows of a full one


def squared(picture):
    """The central square of a PIL image at 64 pixels.  -> (64, 64, 3) uint8"""
    from PIL import Image, ImageOps

    if picture.size != (SIDE, SIDE):
        picture = ImageOps.fit(picture, (SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def write(path, x, label, classes, source="", quality=90):
    """Pictures x (n, 64, 64, 3) uint8 with label (n,) of `classes` into `path`, whole or not at all.

    source: where they come from, in words. quality: of the JPEG.
    """
    jpegs = [_jpeg(x[first : first + TILES**2], quality) for first in range(0, len(x), TILES**2)]
    with whole(path) as part, open(part, "wb") as file:
        np.savez(
            file,
            jpeg=np.frombuffer(b"".join(jpegs), np.uint8),
            ends=np.cumsum([len(jpeg) for jpeg in jpegs]),
            n=len(x),
            labels=np.array(label, np.int16),
            classes=np.array(classes),
            source=source,
        )


def _jpeg(x, quality):
    """One mosaic of up to 1,024 pictures, row by row, black where there are none."""
    from PIL import Image

    tiles = np.zeros((-(-len(x) // TILES) * TILES, SIDE, SIDE, 3), np.uint8)
    tiles[: len(x)] = x
    mosaic = tiles.reshape(-1, TILES, SIDE, SIDE, 3).swapaxes(1, 2).reshape(-1, TILES * SIDE, 3)
    out = io.BytesIO()
    Image.fromarray(mosaic).save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()


def read(path, classes=None):
    """What `write` wrote.  -> x (n, 3, 64, 64) uint8, label (n,), the names of the classes

    classes: indices of those to read, which labels then count; by default all. A mosaic without a picture of
    theirs is not opened. Raises ValueError, one line, for any other file.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as held:
            jpeg, ends, n, label, names = (held[key] for key in ("jpeg", "ends", "n", "labels", "classes"))
        if len(label) != n or len(ends) != -(-n // TILES**2) or not set(label) <= set(range(len(names))):
            raise ValueError(f"{n} pictures, {len(label)} labels, {len(names)} classes, {len(ends)} mosaics")
        chosen = np.arange(len(names)) if classes is None else np.array(classes)
        number = np.full(len(names), -1)
        number[chosen] = np.arange(len(chosen))
        label = number[label]  # (n,), -1 for a class that is not asked for
        x = [np.zeros((0, SIDE, SIDE, 3), np.uint8)]
        for k, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            keep = label[k * TILES**2 : (k + 1) * TILES**2] >= 0
            if keep.any():
                x.append(_tiles(jpeg[start:end])[: len(keep)][keep])
        x = torch.from_numpy(np.concatenate(x)).permute(0, 3, 1, 2).contiguous()
        return x, torch.from_numpy(label[label >= 0]), [str(names[k]) for k in chosen]
    except FileNotFoundError:
        raise
    except Exception as e:  # cut, no archive, other arrays, objects inside, mosaics of another shape
        told = f"{type(e).__name__}: {' '.join(str(e).split())[:80]}"
        raise ValueError(
            f"photos {path} cannot be read ({told}); expected a file that `dgtoy photos` wrote"
        ) from None


def _tiles(jpeg):
    """The pictures of a mosaic.  -> (rows * 32, 64, 64, 3)"""
    from PIL import Image

    mosaic = np.asarray(Image.open(io.BytesIO(jpeg.tobytes())))
    return mosaic.reshape(-1, SIDE, TILES, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
