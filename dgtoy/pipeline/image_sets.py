"""Many pictures: with labels, of a folder or a Hugging Face data set; without, of a folder or an .npz."""

import collections
import hashlib
import io
import os
import pathlib
import tarfile
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..environment import needs
from .pictures import centre_crop, look, open_picture

ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # names of folders


class ImageFolder:
    """The pictures of a folder that holds one folder per class, both in alphabetical order: items (image,
    label).

    Raises ValueError for a folder without classes or of splits, a link to nothing in it, a class without
    pictures, or another number of classes than `expected`. Files that are not read are warned about, with
    their kinds and counts.
    """

    def __init__(self, folder, expected=None):
        self.folder = folder = pathlib.Path(folder)
        if not folder.is_dir():
            more = "" if folder.exists() else ", which is not there"
            if folder.is_file() and (zipfile.is_zipfile(folder) or tarfile.is_tarfile(folder)):
                more = ", an archive; unpack it first"
            raise FileNotFoundError(
                f"folder is {folder}{more}; expected a folder with one folder of images a class"
            )
        inside = sorted(p for p in folder.iterdir() if _visible(p.name))
        if broken := [p for p in inside if not p.exists()]:
            raise ValueError(
                f"folder {folder} holds {broken[0].name}, a link to nothing; mend it, or expected none there"
            )
        self.classes = [p.name for p in inside if p.is_dir()]
        loose = [p for p in inside if p.is_file() and p.suffix.lower() in ENDINGS]
        if not self.classes:
            has = f"but {len(loose)} images; move them" if loose else "nor images; put these"
            raise ValueError(
                f"folder {folder} holds no class folders {has} into {folder / 'NAME'}, one folder a class"
            )
        if {name.lower() for name in self.classes} <= SPLITS:
            raise ValueError(
                f"folder {folder} holds the splits {', '.join(self.classes)}; expected the classes of one,"
                f" as {folder / self.classes[0]} may hold"
            )
        _check_classes(f"folder {folder}", self.classes, expected)
        self.paths, self.labels = [], []
        skipped = [p for p in inside if p.is_file() and p not in loose]
        for label, name in enumerate(self.classes):
            paths, others = _files(folder / name)
            if not paths:
                has = f" but {_kinds(others)}" if others else ""
                raise ValueError(
                    f"class folder {folder / name} holds no images{has}; expected {', '.join(ENDINGS)}"
                )
            self.paths += paths
            self.labels += [label] * len(paths)
            skipped += others
        _warn_of_skipped(folder, skipped)
        if loose:
            warnings.warn(
                f"{len(loose)} images beside the class folders of {folder} are not read, first"
                f" {loose[0].name}; expected them in {folder / 'NAME'}",
                stacklevel=2,
            )
        self._warn_of_nested()
        with ThreadPoolExecutor() as threads:
            self.digests = list(threads.map(_digest, self.paths))
        names = "\n".join(f"{p.relative_to(folder)} {d}" for p, d in zip(self.paths, self.digests))
        self.fingerprint = hashlib.sha256(os.fsencode(names)).hexdigest()[:16]

    def _warn_of_nested(self):
        """Say which class is made of several folders: they may be what was meant as classes."""
        parts = collections.defaultdict(set)
        for path in self.paths:
            name, *rest = path.relative_to(self.folder).parts
            parts[name].add(rest[0] if len(rest) > 1 else None)
        for name, folders in parts.items():
            if len(folders) > 1 and None not in folders:
                warnings.warn(
                    f"class {name} is made of {len(folders)} folders, {', '.join(sorted(folders))[:60]}; to"
                    f" have these as classes, give {self.folder / name}",
                    stacklevel=3,
                )

    def __len__(self):
        return len(self.paths)

    def source(self, i):
        """What `open_picture` opens, and what it is called."""
        return self.paths[i], str(self.paths[i])

    def __getitem__(self, i):
        return open_picture(*self.source(i)), self.labels[i]


class HubImages:
    """A Hugging Face data set with an `image` and a `label` column, by name or as a folder of `save_to_disk`.

    split: by default "train", and of a folder without splits all that it holds. Labels are a ClassLabel's, or
    strings, or integers without gaps. Raises ImportError naming the extra without `datasets`,
    FileNotFoundError for another kind of folder, ValueError if a column or the split is missing, for a label
    that is none of the classes, or another number of classes than `expected`.
    """

    def __init__(self, name, split=None, expected=None):
        needs("dit", "datasets")
        import datasets

        if pathlib.Path(name).is_dir():
            if not any((pathlib.Path(name) / f).is_file() for f in ("state.json", "dataset_dict.json")):
                raise FileNotFoundError(
                    f"folder {name} holds no data set of save_to_disk; expected one, or, for a folder of"
                    " images, no --hub"
                )
            data = datasets.load_from_disk(str(name))
            if isinstance(data, datasets.Dataset) and split not in (None, str(data.split)):
                raise ValueError(f"split is {split}; {name} holds one, {data.split}; expected no --split")
        else:
            data = datasets.load_dataset(name, split=split or "train")
        if isinstance(data, datasets.DatasetDict):
            split = split or "train"
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
        self.fingerprint, self.name = data._fingerprint, name
        self.data = data.cast_column("image", datasets.Image(decode=False))  # decoded by `open_picture`
        self.classes, self.labels = _classes(
            name, data["label"], getattr(data.features["label"], "names", None)
        )
        _check_classes(f"dataset {name}", self.classes, expected)

    def __len__(self):
        return len(self.data)

    def source(self, i):
        """What `open_picture` opens, and what it is called."""
        image = self.data[i]["image"] or {}
        held, path = image.get("bytes") or b"", image.get("path")
        return io.BytesIO(held) if held or not path else path, f"{i} of {self.name}"

    def __getitem__(self, i):
        return open_picture(*self.source(i)), self.labels[i]


def _classes(dataset, labels, names):
    """The classes' names, given or found among the labels, and each label as an index into them.

    Raises ValueError, one line, for a label that names no class, and for a gap among classes without names.
    """
    labels = list(labels)
    told = names is not None
    if all(isinstance(label, str) for label in labels):
        names = names or sorted(set(labels))
        number = {name: k for k, name in enumerate(names)}
        unknown = [label for label in labels if label not in number]
        if unknown:
            raise ValueError(
                f"dataset {dataset} has label {unknown[0]!r}; expected of {', '.join(names)[:60]}"
            )
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


def survey(images, size, grey=False):
    """Look at every picture of an `ImageFolder` or `HubImages` before any work, and warn of those that are
    enlarged to `size` pixels, or lose their colour to a `grey` codec.

    Raises ValueError, one line, naming the pictures that cannot be read.
    """
    with ThreadPoolExecutor() as threads:
        seen = list(threads.map(_look_or_error, map(images.source, range(len(images)))))
    bad = {i: str(e) for i, e in enumerate(seen) if isinstance(e, ValueError)}
    if bad:
        first, *more = bad
        names = ", ".join(str(images.source(i)[1]) for i in more[:5]) + (", ..." if len(more) > 5 else "")
        also = f", nor can {len(more)} more of {len(images)}: {names}" if more else ""
        raise ValueError(f"{bad[first]}{also}; nothing is written: mend or remove what cannot be read")
    small = [i for i, one in enumerate(seen) if min(one.size) < size]
    if small:
        least = min(small, key=lambda i: min(seen[i].size))
        width, height = seen[least].size
        warnings.warn(
            f"{len(small)} of {len(seen)} images are smaller than --size {size} and are enlarged, the"
            f" smallest {images.source(least)[1]} of {width} x {height}",
            stacklevel=3,
        )
    coloured = sum(one.coloured for one in seen)
    if grey and coloured:
        warnings.warn(
            f"{coloured} of {len(seen)} images lose their colour, as --vae unshuffle keeps brightness alone",
            stacklevel=3,
        )


def warn_of_copies(images):
    """Say how many files of an `ImageFolder` are copies of others: one that is held out of training may have
    a copy that trains."""
    first = {}
    copies = [p for p, digest in zip(images.paths, images.digests) if first.setdefault(digest, p) is not p]
    if copies:
        original = first[images.digests[images.paths.index(copies[0])]]
        warnings.warn(
            f"{len(copies)} of {len(images)} images are copies of others, first {copies[0]} of {original};"
            " expected none with --held-out, as a copy of a held-out image may be among those that train",
            stacklevel=3,
        )


def _look_or_error(source):
    try:
        return look(*source)
    except ValueError as e:
        return e


def read_images(source, n=None, size=None, least=1):
    """Images of an .npz (arr_0) or of a folder, in order of name: a generator of (H, W, 3) uint8 arrays, the
    first n. Of a folder that `dit sample` wrote its samples, not the sheet beside them.

    size: cut the central square at so many pixels, as training images are; one of that size passes as it is.
    Raises ValueError for n below `least`, fewer images than are asked for, or a folder of several such.
    """
    source = pathlib.Path(source)
    if n is not None and n < least:
        raise ValueError(f"count is {n}; expected {least} or more images of {source}")
    if (source / "images").is_dir() and (source / "manifest.json").exists():
        source = source / "images"
    sets = sorted(path.parent.name for path in source.glob("*/manifest.json"))
    sets = sets or sorted(path.parent.name for path in source.glob("*/*/manifest.json"))  # those of a sheet
    if sets:
        raise ValueError(f"images {source} holds the samples {', '.join(sets)[:60]}; expected one of these")
    if source.suffix.lower() == ".npz":
        images = _npz(source)
    elif source.is_dir():
        images = picture_paths(source)
    else:
        raise FileNotFoundError(f"images {source} is neither a folder nor an .npz file")
    if len(images) < (n or least):
        raise ValueError(f"images {source} holds {len(images)}; expected {n or f'at least {least}'}")

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
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise ValueError(f"images {path} holds arr_0 of {images.dtype} {images.shape}; {expected}")
    return images


def picture_paths(folder, beside=()):
    """Every picture below a folder and the folders it links to, by its ending, in order of name.

    Hidden names, __MACOSX and links to a folder that holds this one are passed over; files that are not read
    are warned about, but for those of the endings `beside`. Raises OSError for a folder that may not be read.
    """
    found, skipped = _files(folder)
    _warn_of_skipped(folder, [path for path in skipped if path.suffix not in beside])
    return found


def _files(folder):
    """The visible files below a folder, in order of name: pictures by their ending, and the others."""
    found, skipped = [], []
    seen = set(map(str, pathlib.Path(folder).resolve().parents))  # a link up would bring in other classes
    for here, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        place = os.path.realpath(here)
        folders[:] = sorted(filter(_visible, folders)) if place not in seen else []  # links may make a circle
        paths = [pathlib.Path(here, name) for name in filter(_visible, names)] if place not in seen else []
        seen.add(place)
        for path in paths:
            (found if path.suffix.lower() in ENDINGS else skipped).append(path)
    return sorted(found), sorted(skipped)


def _raise(error):
    raise error


def _visible(name):
    return not name.startswith(".") and name not in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _digest(path):
    """The SHA-256 of a file, or of nothing where it cannot be read, which `survey` tells."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _kinds(paths):
    """Files counted by their ending, the most frequent first, in words."""
    counts = collections.Counter(path.suffix.lower() or "without ending" for path in paths)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common(6))


def _warn_of_skipped(folder, skipped):
    if skipped:
        warnings.warn(
            f"{len(skipped)} files of {folder} are skipped: {_kinds(skipped)}, first {skipped[0].name};"
            f" expected {', '.join(ENDINGS)}",
            stacklevel=3,
        )
