"""Pictures from a folder, a Hugging Face data set or an .npz, all read by `open_picture`, and their crop."""

import hashlib
import io
import os
import pathlib
import warnings

import numpy as np
import torch

from ..environment import needs

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
NOT_READ = (".gif", ".heic", ".heif", ".avif", ".jxl")  # pictures too: named when skipped


def open_picture(source, name=None):
    """A picture in RGB, upright, transparency laid on white, of an animation the first frame.

    source: a path, an open file, an array (H, W, 3) uint8, or a PIL image, as hub data sets hold. name: what
    an error calls it. Raises ValueError, one line, naming what cannot be read.
    """
    from PIL import Image

    name = name or (source if isinstance(source, str | pathlib.Path) else type(source).__name__)
    try:
        if isinstance(source, Image.Image):
            return _in_rgb(source, name)
        if isinstance(source, np.ndarray):
            return _in_rgb(Image.fromarray(source), name)
        with Image.open(source) as image:
            return _in_rgb(image, name)
    except Exception as e:
        raise ValueError(f"image {name} cannot be read ({type(e).__name__}: {str(e)[:80]})") from None


def _in_rgb(image, name):
    from PIL import Image, ImageOps

    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a phone's MPO holds one picture and its previews
        warnings.warn(f"image {name} holds {frames} frames; the first is read", stacklevel=3)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(
            f"its mode is {image.mode}, whose range is not known; expected 8 or 16 bits a channel"
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
    return image.convert("RGB")


def picture_paths(folder):
    """Every picture below a folder and the folders it links to, by its ending, in order of name.

    Hidden names and __MACOSX are passed over; pictures of a kind that is not read are warned about.
    """
    found, skipped, seen = [], [], set()
    for here, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(here)
        folders[:] = sorted(filter(_visible, folders)) if place not in seen else []  # links may make a circle
        paths = [pathlib.Path(here, name) for name in filter(_visible, names)] if place not in seen else []
        seen.add(place)
        found += [p for p in paths if p.suffix.lower() in ENDINGS]
        skipped += [p for p in paths if p.suffix.lower() in NOT_READ]
    if skipped:
        warnings.warn(
            f"{len(skipped)} pictures of {folder} are skipped, first {min(skipped).name};"
            f" expected {', '.join(ENDINGS)}",
            stacklevel=2,
        )
    return sorted(found)


def _visible(name):
    return not name.startswith(".") and name != "__MACOSX"


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
        images = _npz(source)
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


def _npz(path):
    """The images (N, H, W, 3) uint8 of an .npz. Raises ValueError for one that holds anything else."""
    expected = "expected arr_0 of uint8 (N, H, W, 3)"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as held:
            if "arr_0" not in held:
                raise ValueError(f"it holds {', '.join(held)}")
            images = held["arr_0"]
    except FileNotFoundError:
        raise
    except Exception as e:  # cut, no archive, or objects inside
        raise ValueError(f"images {path} cannot be read ({str(e)[:80]}); {expected}") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images {path} holds arr_0 of {images.dtype} {images.shape}; {expected}")
    return images


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
        self.classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and _visible(p.name))
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
        self.fingerprint = hashlib.sha256(os.fsencode(names)).hexdigest()[:16]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return open_picture(self.paths[i]), self.labels[i]


class HubImages:
    """A Hugging Face data set with an `image` and a `label` column, by name or as a folder of `save_to_disk`.

    Labels are a ClassLabel's, or strings, or integers without gaps. Raises ImportError naming the extra
    without `datasets`, ValueError if a column or the split is missing, for a label that is none of the
    classes, or another number of classes than `expected`.
    """

    def __init__(self, name, split="train", expected=None):
        needs("dit", "datasets")
        import datasets

        if pathlib.Path(name).is_dir():
            data = datasets.load_from_disk(str(name))
        else:
            data = datasets.load_dataset(name, split=split)
        if isinstance(data, datasets.DatasetDict):
            if split not in data:
                raise ValueError(f"dataset {name} has no split {split}; expected --split {' or '.join(data)}")
            data = data[split]
        missing = {"image", "label"} - set(data.features)
        if missing:
            columns = ", ".join(data.features)
            raise ValueError(
                f"dataset {name} has columns {columns}; expected {' and '.join(sorted(missing))}"
            )
        if not isinstance(data.features["image"], datasets.Image):
            raise ValueError(
                f"dataset {name} has an image column of {data.features['image']}; expected Image()"
            )
        self.data, self.fingerprint, self.name = data, data._fingerprint, name
        self.data = data.cast_column("image", datasets.Image(decode=False))  # decoded by `open_picture`
        self.classes, self.labels = _classes(
            name, data["label"], getattr(data.features["label"], "names", None)
        )
        _check_classes(f"dataset {name}", self.classes, expected)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        image = self.data[i]["image"] or {}
        source = io.BytesIO(image["bytes"]) if image.get("bytes") else image.get("path")
        return open_picture(source, f"{i} of {self.name}"), self.labels[i]


def _classes(dataset, labels, names):
    """The classes' names, given or found among the labels, and each label as an index into them.

    Raises ValueError, one line, for a label that names no class, and for a gap among classes without names.
    """
    labels = list(labels)
    told = names is not None
    if all(isinstance(label, str) for label in labels):
        names = names or sorted(set(labels))
        number = {name: k for k, name in enumerate(names)}
        labels = [number[label] for label in labels]
    other = [label for label in labels if type(label) is not int]
    if other or not labels:
        came = f"label {other[0]!r}" if other else "no labels"
        raise ValueError(f"dataset {dataset} has {came}; expected integers, or strings throughout")
    names = names or [str(k) for k in range(1 + max(labels))]
    wrong = [label for label in labels if not 0 <= label < len(names)]
    if wrong:
        raise ValueError(
            f"dataset {dataset} has label {wrong[0]} for {len(wrong)} of {len(labels)} images;"
            f" expected 0 to {len(names) - 1}"
        )
    empty = sorted(set(range(len(names))) - set(labels))
    if empty:
        share = f"{len(empty)} of {len(names)} classes, first {names[empty[0]]}"
        text = f"dataset {dataset} holds no images of {share}"
        if not told:
            raise ValueError(f"{text}; expected labels without gaps")
        warnings.warn(text, stacklevel=3)
    return list(names), labels


def _check_classes(what, classes, expected):
    """Raise if the number of classes is not the expected one."""
    if expected not in (None, len(classes)):
        raise ValueError(f"{what} holds {len(classes)} classes; expected {expected}")
