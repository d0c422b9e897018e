"""Pictures from a folder, a Hugging Face data set or an .npz, all read by `open_picture`, and their crop."""

import hashlib
import pathlib

import numpy as np
import torch

from ..environment import needs

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def open_picture(source):
    """A picture in RGB, as PIL has it. source: a path, an array (H, W, 3) uint8, or a PIL image, as hub data
    sets hold.

    Raises ValueError, one line, naming what cannot be read.
    """
    from PIL import Image

    try:
        if isinstance(source, Image.Image):
            return source.convert("RGB")
        if isinstance(source, np.ndarray):
            return Image.fromarray(source).convert("RGB")
        with Image.open(source) as image:
            return image.convert("RGB")
    except Exception as e:
        name = source if isinstance(source, str | pathlib.Path) else type(source).__name__
        raise ValueError(f"image {name} cannot be read ({type(e).__name__}: {str(e)[:80]})") from None


def picture_paths(folder):
    """Every picture below a folder, by its ending, in order of name."""
    return sorted(p for p in pathlib.Path(folder).rglob("*") if p.suffix.lower() in ENDINGS)


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


def read_images(source, n=None, size=None):
    """Images of an .npz (arr_0) or of a folder, in order of name: a generator of (H, W, 3) uint8 arrays, the
    first n.

    size: cut the central square at so many pixels, as training images are; one of that size passes as it is.
    Raises ValueError if there are fewer than n, or none.
    """
    source = pathlib.Path(source)
    if source.suffix == ".npz":
        images = np.load(source, allow_pickle=False)["arr_0"]
    elif source.is_dir():
        images = picture_paths(source)
    else:
        raise FileNotFoundError(f"images {source} is neither a folder nor an .npz file")
    if len(images) < (n or 1):
        raise ValueError(f"images {source} holds {len(images)}; expected {n or 'at least 1'}")

    pictures = map(open_picture, images[:n])
    if size is None:
        return map(np.asarray, pictures)
    return (centre_crop(picture, size).permute(1, 2, 0).numpy() for picture in pictures)


class ImageFolder:
    """The pictures of a folder that holds one folder per class, both in alphabetical order: items (image,
    label).

    Raises ValueError for a folder without classes, a class without pictures, or another number of classes
    than `expected`.
    """

    def __init__(self, folder, expected=None):
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"folder is {folder}; expected a folder with one folder of images a class"
            )
        self.classes = sorted(p.name for p in folder.iterdir() if p.is_dir())
        if not self.classes:
            raise ValueError(f"folder {folder} holds no class folders; expected one folder of images a class")
        _check_classes(f"folder {folder}", self.classes, expected)
        self.paths, self.labels = [], []
        for label, name in enumerate(self.classes):
            paths = picture_paths(folder / name)
            if not paths:
                raise ValueError(
                    f"class folder {folder / name} holds no images; expected {', '.join(ENDINGS)}"
                )
            self.paths += paths
            self.labels += [label] * len(paths)
        names = "\n".join(f"{p.relative_to(folder)} {p.stat().st_size}" for p in self.paths)
        self.fingerprint = hashlib.sha256(names.encode()).hexdigest()[:16]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return open_picture(self.paths[i]), self.labels[i]


class HubImages:
    """A Hugging Face data set with an `image` and a `label` column, by name or as a folder of `save_to_disk`.

    Raises ImportError naming the extra without `datasets`, ValueError if a column is missing or the number of
    classes is another than `expected`.
    """

    def __init__(self, name, split="train", expected=None):
        needs("dit", "datasets")
        import datasets

        if pathlib.Path(name).is_dir():
            data = datasets.load_from_disk(str(name))
        else:
            data = datasets.load_dataset(name, split=split)
        data = data[split] if isinstance(data, datasets.DatasetDict) else data
        missing = {"image", "label"} - set(data.features)
        if missing:
            columns = ", ".join(data.features)
            raise ValueError(
                f"dataset {name} has columns {columns}; expected {' and '.join(sorted(missing))}"
            )
        self.data, self.fingerprint = data, data._fingerprint
        names = getattr(data.features["label"], "names", None)
        self.classes = list(names) if names else [str(k) for k in range(1 + max(data["label"]))]
        _check_classes(f"dataset {name}", self.classes, expected)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        row = self.data[i]
        return open_picture(row["image"]), int(row["label"])


def _check_classes(what, classes, expected):
    """Raise if the number of classes is not the expected one."""
    if expected not in (None, len(classes)):
        raise ValueError(f"{what} holds {len(classes)} classes; expected {expected}")
