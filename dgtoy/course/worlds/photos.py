"""Photographs at 64 pixels: Tiny ImageNet as the source, and the targets that a fine-tune learns.

Three targets are classes held out of the source; the others are data sets of their own. No photograph comes
with the course: `python -m dgtoy photos` packs what COLLECTIONS says where to get, a file of JPEG mosaics for
each, and `source` and `target` read those from a folder, their argument or DGTOY_PHOTOS. `split` takes
pictures of your own.
"""

import dataclasses
import os
import pathlib
from typing import NamedTuple

import numpy as np
import torch

from ...pipeline.manifest import data_checksum
from ...pipeline.pictures import centre_crop
from . import packs


@dataclasses.dataclass(frozen=True)
class Collection:
    """A public data set.

    classes: how many. clone: a repository on GitHub that holds it, and in it the folder with one folder of
    pictures for each class. origin: who made it. terms: as its publisher states them. parts: how many files
    it is packed into, each with its share of every class. quality: of the JPEG.
    """

    classes: int
    clone: str
    folder: str
    origin: str
    terms: str
    parts: int = 1
    quality: int = 90


PACS = "MachineLearning2020/Homework3-PACS"
COLLECTIONS = {
    "tiny": Collection(
        200,
        "seshuad/IMagenet",
        "tiny-imagenet-200/train",
        "Tiny ImageNet, Stanford CS 231N: 200 classes of ImageNet at 64 pixels, 500 pictures each",
        "research and teaching, as ImageNet",
        parts=5,
        quality=75,  # the one they come in
    ),
    "caltech101": Collection(
        101,
        "MachineLearning2020/Homework2-Caltech101",
        "101_ObjectCategories",
        "Caltech-101, Li et al. 2004; a target of the paper",
        "CC BY 4.0",
    ),
    "food10": Collection(
        10,
        "srohit0/food_mnist",
        "images",
        "ten classes of Food-101, Bossard et al. 2014; Food-101 is a target of the paper",
        "research, photographs by their authors",
    ),
    "art7": Collection(
        7, PACS, "PACS/art_painting", "PACS, Li et al. 2017: seven objects, painted", "none stated"
    ),
    "sketch7": Collection(7, PACS, "PACS/sketch", "PACS: the same, sketched", "none stated"),
    "cartoon7": Collection(7, PACS, "PACS/cartoon", "PACS: the same, as cartoons", "none stated"),
}

HELD_OUT = {  # targets of Tiny ImageNet: indices into its classes, in order of their WordNet ids
    "food": (*range(177, 194),),
    "vehicles": (70, 81, 94, 103, 107, 108, 111, 114, 115, 116, 121, 133, 145, 153, 164, 166),
    "insects": (7, 8, 9, 10, *range(36, 46)),
}
SOURCE = tuple(k for k in range(200) if not any(k in classes for classes in HELD_OUT.values()))
TARGETS = (*HELD_OUT, *(name for name in COLLECTIONS if name != "tiny"))

SPLITS = {  # of each class, its pictures in order of their names: to train on, and true ones of the metrics
    "source": (slice(0, 480), slice(480, 500)),
    "held out": (slice(0, 300), slice(300, 500)),
    "others": (slice(0, None, 2), slice(1, None, 2)),
}


class Photos:
    """Labelled pictures in memory, as bytes: x (N, 3, 64, 64) uint8, label (N,), `classes`, their names.

    It is the `Data` of `pipeline.finetune`: x0 in [-1, 1], mirrored where asked, on the device of x.
    """

    def __init__(self, x, label, classes):
        if x.dtype != torch.uint8 or x.ndim != 4 or len(x) != len(label):
            raise ValueError(
                f"x, label have {x.dtype} {tuple(x.shape)}, {tuple(label.shape)};"
                " expected uint8 (N, 3, H, W), (N,)"
            )
        if len(label) and not 0 <= label.min() <= label.max() < len(classes):
            raise ValueError(
                f"label reaches from {int(label.min())} to {int(label.max())};"
                f" expected 0 to {len(classes) - 1} for {len(classes)} classes"
            )
        self.x, self.label, self.classes = x, label.cpu(), list(classes)
        self.label_on_device = label.to(x.device)  # the labels again, where the pictures are
        self.shape = tuple(x.shape[1:])

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        """Some of the pictures: a slice, or indices (n,)."""
        return Photos(self.x[rows], self.label[rows], self.classes)

    def to(self, device):
        """A copy on another device; its labels are there and on the CPU, wherever a batch is drawn."""
        return Photos(self.x.to(device), self.label, self.classes)

    @property
    def fingerprint(self):
        return data_checksum((self.x, self.label), self.classes)

    def draw(self, rows, flip, z=None):
        """x0 (B, 3, 64, 64) in [-1, 1], label (B,) of pictures `rows` (B,), mirrored where `flip` (B,).

        x0 is where the pictures are, label where `rows` is.
        """
        x0 = self.x[rows.to(self.x.device)].float() / 127.5 - 1
        flip = flip.to(x0.device)[:, None, None, None]
        label = self.label if rows.device.type == "cpu" else self.label_on_device
        return torch.where(flip, x0.flip(-1), x0), label[rows]


class Split(NamedTuple):
    """Pictures to train on and true pictures to compare with, none in both."""

    train: Photos
    truth: Photos


def source(folder=None):
    """The 153 classes of Tiny ImageNet that no target holds, 480 pictures each and 20 held out.  -> Split"""
    return _split(*read("tiny", folder, SOURCE), "source")


def target(name, folder=None, size=None):
    """A target of TARGETS, `size` pictures a class to train on, by default all of SPLITS.  -> Split

    A smaller set is the beginning of a larger one; classes with fewer pictures give all they have. Raises
    ValueError for another name or a size that no class has, FileNotFoundError that says how to get the files.
    """
    if name not in TARGETS:
        raise ValueError(f"name is {name!r}; expected one of {', '.join(TARGETS)}")
    if name in HELD_OUT:
        return _split(*read("tiny", folder, HELD_OUT[name]), "held out", size)
    return _split(*read(name, folder), "others", size)


def split(images, size=None):
    """Your own pictures, an `ImageFolder` or `HubImages` of the pipeline, every second one true.  -> Split"""
    x = torch.stack([centre_crop(picture, packs.SIDE) for picture, _ in images])
    return _split(x, torch.tensor(images.labels), images.classes, "others", size)


def _split(x, label, classes, how, size=None):
    """The parts of SPLITS[how], of the first the first `size` of each class."""
    photos = Photos(x, label, classes)
    numbers = [(label == k).nonzero()[:, 0] for k in range(len(classes))]
    train, truth = (photos[torch.cat([rows[part] for rows in numbers])] for part in SPLITS[how])
    return Split(train[first(train.label, size)], truth)


def first(label, size=None):
    """Which of pictures with label (N,) are the first `size` of their class, None for all of them.  -> (n,)

    Raises ValueError for a size that no class has.
    """
    numbers = [(label == k).nonzero()[:, 0] for k in label.unique()]
    longest = max(map(len, numbers))
    if size is not None and not 1 <= size <= longest:
        raise ValueError(f"size is {size}; expected 1 to {longest}, the pictures of the largest class")
    return torch.cat([rows[:size] for rows in numbers])


# packed files


def default_folder():
    """Where packed photographs are looked for: DGTOY_PHOTOS, or build/photos."""
    return pathlib.Path(os.environ.get("DGTOY_PHOTOS") or "build/photos")


def read(name, folder=None, classes=None):
    """The packed pictures of a collection.  -> x (N, 3, 64, 64) uint8, label (N,), names of the classes

    classes: which to read, by index, labels then counting these; by default all. folder: by default
    DGTOY_PHOTOS, or build/photos. Raises FileNotFoundError that says how to get a file that is missing,
    ValueError for one that is damaged.
    """
    folder = pathlib.Path(folder or default_folder())
    paths = [folder / file for file in _files(name)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        kind = COLLECTIONS[name]
        there = f"{kind.clone.rpartition('/')[2]}/{kind.folder}"
        raise FileNotFoundError(
            f"photos: {missing[0]} is not in {folder}; expected it there, in the folder that is given or"
            f" in DGTOY_PHOTOS. To make it: git clone https://github.com/{kind.clone} and"
            f" python -m dgtoy photos {name} {there} --out {folder} (terms: {kind.terms})"
        )
    x, label, names = zip(*(packs.read(path, classes) for path in paths), strict=True)
    if any(other != names[0] for other in names):
        raise ValueError(f"photos: the files of {name} in {folder} differ in their classes; pack them again")
    return torch.cat(x), torch.cat(label), names[0]


def pack(name, images, out, words=None):
    """Pack the pictures of a collection, an `ImageFolder` or `HubImages`; yields the path of each file.

    Each file in OUT holds an equal share of each class, in order, and the classes in order of their names.
    words {class: name}: what the WordNet ids of Tiny ImageNet mean. Raises ValueError for another number of
    classes than the collection has.
    """
    kind = COLLECTIONS[name]
    kept = [k for k, c in enumerate(images.classes) if c != "BACKGROUND_Google"]  # of Caltech-101: no class
    kept.sort(key=images.classes.__getitem__)  # as in a folder, and as HELD_OUT counts
    if len(kept) != kind.classes:
        raise ValueError(f"images hold {len(kept)} classes; expected {kind.classes}, as {name} has")
    names = [images.classes[k] for k in kept]
    if words:
        names = [f"{wordnet} {words[wordnet]}" for wordnet in names]
    label = np.array(images.labels)
    shares = [np.array_split(np.flatnonzero(label == k), kind.parts) for k in kept]

    def work():
        for part, file in enumerate(_files(name)):
            rows = [(i, k) for k, share in enumerate(shares) for i in share[part].tolist()]
            x = np.stack([packs.squared(images[i][0]) for i, _ in rows])
            path = pathlib.Path(out) / file
            packs.write(path, x, [k for _, k in rows], names, f"{kind.clone}/{kind.folder}", kind.quality)
            yield path

    return work()


def wordnet(folder):
    """What the WordNet ids of Tiny ImageNet mean, from words.txt beside its folder of classes.  -> {id: name}

    Empty where there is no such file.
    """
    path = pathlib.Path(folder).parent / "words.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {key: names.split(",")[0] for key, _, names in (line.partition("\t") for line in lines)}


def _files(name):
    """The names of a collection's files."""
    parts = COLLECTIONS[name].parts
    return [f"{name}_{k}.npz" for k in range(parts)] if parts > 1 else [f"{name}.npz"]
