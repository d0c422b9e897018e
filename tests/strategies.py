"""What people bring, right and wrong: pictures, folders, arrays, labels; and a way to run a command on it.

`DGTOY_FUZZ=100` draws a hundred times as many examples, fresh ones.
"""

import contextlib
import io
import os
import pathlib
import tempfile
import warnings
from typing import NamedTuple

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

from dgtoy.__main__ import main

TIMES = int(os.environ.get("DGTOY_FUZZ", 1))
SIDE = 16  # of pictures: four squares of one colour each, so that JPEG keeps them


def examples(n):
    """Settings: n examples, the same in every run; `DGTOY_FUZZ` times as many fresh ones."""
    return settings(
        max_examples=n * TIMES,
        derandomize=TIMES == 1,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@contextlib.contextmanager
def place():
    """An empty folder that goes again."""
    with tempfile.TemporaryDirectory(prefix="dgtoy fuzz ") as folder:
        yield pathlib.Path(folder)


def run(*words):
    """python -m dgtoy WORDS in this process.  -> exit status, the last line of what it said

    A failure must be one line, and of a kind that the command expects.
    """
    out, err, status, line = io.StringIO(), io.StringIO(), 0, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main([str(word) for word in words])
        except SystemExit as ended:
            status, line = (1, ended.code) if isinstance(ended.code, str) else (ended.code or 0, "")
    if status == 2:  # argparse: usage, then one line
        line = err.getvalue().strip().splitlines()[-1]
    assert "\n" not in line and "Traceback" not in err.getvalue(), line
    assert "--traceback shows where" not in line, line  # a kind of error that nobody foresaw
    assert status in (0, 1, 2) and (line or not status)
    return status, line or out.getvalue()


def unfinished(folder):
    """Files below a folder that only a write under way should leave."""
    return [p for p in pathlib.Path(folder).rglob("*") if p.name.endswith(".part") or ".part." in p.name]


# pictures


class Picture(NamedTuple):
    """A file's ending and bytes, and what a picture shows, (H, W, 3) uint8: None if it cannot be read.

    off: how far its pixels may be from that, by JPEG or by mixing with white.
    """

    ending: str
    data: bytes
    rgb: np.ndarray | None
    off: int = 0


def upright(stored, orientation):
    """Pixels as EXIF's orientation 1 to 8 wants them shown."""
    turned = stored.transpose(1, 0, 2) if orientation > 4 else stored
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return turned[::rows, ::columns]


def saved(image, kind, **how):
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


@st.composite
def colours(draw):
    """Four squares of one colour each.  -> (SIDE, SIDE, 3) uint8"""
    four = draw(st.lists(st.integers(0, 255), min_size=12, max_size=12))
    return np.kron(np.reshape(four, (2, 2, 3)), np.ones((SIDE // 2, SIDE // 2, 1))).astype(np.uint8)


@st.composite
def readable(draw):
    """A picture of a kind that phones, scanners and programs write."""
    rgb = draw(colours())
    grey = rgb[..., 0]
    as_grey = np.repeat(grey[..., None], 3, 2)
    kind = draw(
        st.sampled_from(("png", "bmp", "tiff", "webp", "jpeg", "grey", "wide", "glass", "palette", "print"))
    )
    if kind in ("png", "jpeg"):
        turned = Image.Exif()
        turned[0x0112] = orientation = draw(st.integers(1, 8))
        how = dict(quality=97, subsampling=0) if kind == "jpeg" else {}
        ending = draw(st.sampled_from((".jpg", ".JPEG") if kind == "jpeg" else (".png", ".PNG")))
        data = saved(Image.fromarray(rgb), kind, exif=turned, **how)
        return Picture(ending, data, upright(rgb, orientation), 4 if how else 0)
    if kind == "grey":
        return Picture(".png", saved(Image.fromarray(grey), "png"), as_grey)
    if kind == "wide":  # 16 bits
        return Picture(".png", saved(Image.fromarray(grey.astype(np.uint16) * 257), "png"), as_grey)
    if kind == "glass":
        alpha = draw(st.integers(0, 255))
        rgba = np.dstack([rgb, np.full_like(grey, alpha)])
        shown = (rgb * (alpha / 255) + 255 - alpha).round().astype(np.uint8)
        return Picture(".png", saved(Image.fromarray(rgba), "png"), shown, 1)
    if kind == "palette":
        table = rgb[:: SIDE // 2, :: SIDE // 2].reshape(-1)
        index = np.kron([[0, 1], [2, 3]], np.ones((SIDE // 2, SIDE // 2))).astype(np.uint8)
        image = Image.fromarray(index, "P")
        image.putpalette(table.tobytes())
        return Picture(".png", saved(image, "png"), rgb)
    if kind == "print":  # cyan, magenta, yellow, black
        cmyk = np.dstack([255 - rgb, np.zeros_like(grey)])
        return Picture(".tif", saved(Image.fromarray(cmyk, "CMYK"), "tiff"), rgb)
    how = dict(lossless=True) if kind == "webp" else {}
    return Picture(f".{kind}", saved(Image.fromarray(rgb), kind, **how), rgb)


@st.composite
def broken(draw):
    """A file with a picture's ending that cannot be read."""
    whole = draw(readable())
    kind = draw(st.sampled_from(("cut", "empty", "text", "zeros", "float")))
    data = dict(
        cut=whole.data[: len(whole.data) // 3],
        empty=b"",
        text=b"<html>404</html>",
        zeros=bytes(100),
        float=saved(Image.fromarray(np.ones((SIDE, SIDE), np.float32)), "tiff"),
    )
    return Picture(".tif" if kind == "float" else whole.ending, data[kind], None)


NAMES = ("a", "b", "10", "2", "Äpfel", "with space", "日本", "A", "a.b", os.fsdecode(b"\xff"))
HIDDEN = (".ipynb_checkpoints", "__MACOSX", ".hidden")


@st.composite
def folders(draw):
    """Classes of pictures by folder, {name: {file: Picture}}; some nested, hidden, broken or empty."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=0, max_size=3, unique=True))
    found = {}
    for name in names:
        pictures = draw(st.lists(st.one_of(readable(), readable(), readable(), broken()), max_size=3))
        below = draw(st.sampled_from(("", "", "deep/er/")))
        found[name] = {f"{below}{i} ü{p.ending}": p for i, p in enumerate(pictures)}
    for name in draw(st.lists(st.sampled_from(HIDDEN), max_size=1)):
        found[name] = {"x.png": draw(broken())}
    for name in names[:1]:
        if found[name] and draw(st.booleans()):
            found[name]["._0.png"] = draw(broken())
    return found


def written(folder, classes):
    """The folder, with those classes of pictures in it."""
    for name, pictures in classes.items():
        (folder / name).mkdir(parents=True)
        for file, picture in pictures.items():
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture.data)
    return folder


def seen(classes):
    """What a reader of a folder should see: [(class, picture)], by class and then by name of the file."""
    shown = {name: files for name, files in classes.items() if name not in HIDDEN}
    return [
        (name, files[file])
        for name, files in sorted(shown.items())
        for file in sorted(files, key=lambda f: f.split("/"))
        if not file.startswith(".")
    ]


# arrays


@st.composite
def arrays(draw):
    """Bytes of an .npz, and the images in it, or None where it holds none: arr_0 of uint8 (N, H, W, 3)."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    n, side = draw(st.integers(0, 9)), draw(st.sampled_from((8, 16, 32)))
    images = rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    kind = draw(
        st.sampled_from(
            (
                "right",
                "right",
                "right",
                "packed",
                "float",
                "channels first",
                "grey",
                "named",
                "alike",
                "objects",
            )
            + ("cut", "text", "signed", "one", "alpha", "nothing")
        )
    )
    stream, right = io.BytesIO(), kind in ("right", "packed", "alike") and n
    if kind == "alike":
        images[:] = images[:1]
    held = {
        "float": images / 255,
        "channels first": images.transpose(0, 3, 1, 2),
        "grey": images[..., 0],
        "signed": images.astype(np.int64),
        "one": images.reshape(-1),
        "alpha": np.concatenate([images, images[..., :1]], -1),
        "objects": np.array([{"a": 1}], object),
    }.get(kind, images)
    save = np.savez_compressed if kind == "packed" else np.savez
    save(stream, **({} if kind == "nothing" else {"images" if kind == "named" else "arr_0": held}))
    data = stream.getvalue()
    if kind in ("cut", "text"):
        data = data[: len(data) // 2] if kind == "cut" else b"not an archive"
    return data, images if right else None, kind


# labels

label_sets = st.lists(
    st.one_of(st.integers(-1, 4), st.sampled_from(("a", "b", "c")), st.none(), st.booleans()), max_size=8
) | st.lists(st.integers(0, 3), min_size=1, max_size=8)
class_names = st.none() | st.lists(st.sampled_from(("a", "b", "c", "d")), min_size=1, max_size=4, unique=True)
