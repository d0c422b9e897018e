"""Pictures and data sets as people have them: read rightly, or refused in one line that names the file."""

import errno
import io
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from helpers import refuses
from PIL import Image

from dgtoy.pipeline.evaluate import Glyphs, evaluate
from dgtoy.pipeline.image_sets import HubImages, ImageFolder, picture_paths, read_images, survey
from dgtoy.pipeline.pictures import open_picture

RED, WHITE = (255, 0, 0), (255, 255, 255)
datasets = pytest.importorskip("datasets")


def noise(height=16, width=16, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes of three pictures."""
    for k, name in enumerate("ab"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(noise(seed=3 * k + i)).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def on_hub(path, labels, feature, images=None, split=None):
    """A data set as `save_to_disk` writes it, opened."""
    images = images or [Image.fromarray(noise(seed=i)) for i in range(len(labels))]
    features = datasets.Features(image=datasets.Image(), label=feature)
    data = datasets.Dataset.from_dict(dict(image=images, label=labels), features=features)
    (datasets.DatasetDict({split: data}) if split else data).save_to_disk(path)
    return HubImages(path)


# one picture


def test_a_phone_picture_stands_upright_from_a_folder_and_from_the_hub(tmp_path):
    lying = Image.new("RGB", (48, 32))
    lying.paste(RED, (0, 0, 48, 16))
    turned = Image.Exif()
    turned[0x0112] = 6  # the top of the scene is on the right
    (tmp_path / "photos" / "a").mkdir(parents=True)
    path = tmp_path / "photos" / "a" / "0.jpg"
    lying.save(path, exif=turned, quality=95)
    mine = ImageFolder(tmp_path / "photos")[0][0]
    hub = on_hub(tmp_path / "hub", [0], datasets.ClassLabel(names=["a"]), [str(path)])
    assert mine.size == (32, 48) and np.asarray(mine)[24, 28, 0] > 200 and np.asarray(mine)[24, 4, 0] < 50
    assert np.array_equal(mine, hub[0][0])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white_and_hidden_pixels_never_show(mode, tmp_path):
    pixels = noise(channels=4)
    pixels[..., 3] = 0
    pixels[4:12, 4:12] = (*RED, 255)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray(pixels[..., 3] // 255, "P")
        image.putpalette([9, 9, 9, *RED])
        image.info["transparency"] = 0
        image.save(tmp_path / "p.png", transparency=0)
    else:
        image.convert(mode).save(tmp_path / "p.png")
    found = np.asarray(open_picture(tmp_path / "p.png"))
    assert (found[:4] == 255).all()
    if mode != "LA":
        assert (found[4:12, 4:12] == RED).all()


@pytest.mark.parametrize("bits, colours", [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_a_transparent_colour_of_any_depth_is_white(bits, colours, tmp_path):
    """A PNG may name one colour as its transparent one (tRNS), in its own bits."""
    hidden = np.array([1, 0, 1])[:colours] if bits < 16 else np.array([4660, 300, 9])[:colours]
    pixels = np.where(np.arange(64).reshape(8, 8, 1) < 32, hidden, 0)  # the upper half
    if bits > 8:
        rows = [row.astype(">u2").tobytes() for row in pixels]
    else:
        places = (pixels[..., None] >> np.arange(bits - 1, -1, -1)) & 1  # its bits, the highest first
        rows = [np.packbits(row).tobytes() for row in places.reshape(8, -1)]
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 8, 8, bits, 2 if colours == 3 else 0, 0, 0, 0),
        b"tRNS": hidden.astype(">u2").tobytes(),
        b"IDAT": zlib.compress(b"".join(b"\0" + row for row in rows)),
        b"IEND": b"",
    }
    file = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks.items():
        file += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    (tmp_path / "p.png").write_bytes(file)
    found = np.asarray(open_picture(tmp_path / "p.png"))
    assert (found[:4] == 255).all() and (found[4:] == 0).all()


def test_sixteen_bits_are_scaled_by_their_range_and_floats_refused(tmp_path):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    for name in ("ramp.png", "ramp.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        assert np.array_equal(np.asarray(open_picture(tmp_path / name))[..., 1].ravel(), np.arange(256))
    for kind, mode in ((np.float32, "F"), (np.int32, "I")):
        Image.fromarray(ramp.astype(kind)).save(tmp_path / "wide.tif")
        with refuses(f"wide.tif cannot be read (ValueError: its mode is {mode}, whose range is not known"):
            open_picture(tmp_path / "wide.tif")


@pytest.mark.parametrize(
    "mode, ending", [("CMYK", "jpg"), ("L", "png"), ("1", "png"), ("P", "png"), ("YCbCr", "jpg")]
)
def test_other_modes_are_what_pil_makes_of_them(mode, ending, tmp_path):
    path = tmp_path / f"p.{ending}"
    Image.fromarray(noise()).convert(mode).save(path)
    assert np.array_equal(open_picture(path), Image.open(path).convert("RGB"))


def test_of_an_animation_the_first_frame_is_read_and_this_is_said(tmp_path):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in (RED, WHITE))
    first.save(tmp_path / "p.webp", save_all=True, append_images=[second], lossless=True)
    with pytest.warns(UserWarning, match=r"p.webp holds 2 frames; the first is read"):
        found = open_picture(tmp_path / "p.webp")
    assert (np.asarray(found) == RED).all()


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_damaged_file_is_named_in_one_line(ending, tmp_path):
    path = tmp_path / f"p.{ending}"
    Image.fromarray(noise(64, 64)).save(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no picture"):
        path.write_bytes(damaged)
        with refuses(f"p.{ending} cannot be read"):
            open_picture(path)


# folders


def test_hidden_names_are_neither_classes_nor_pictures(folder):
    plain = ImageFolder(folder)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "a" / ".ipynb_checkpoints").mkdir()
    shutil.copy(folder / "a" / "0.png", folder / "a" / ".ipynb_checkpoints" / "0-checkpoint.png")
    (folder / "__MACOSX" / "a").mkdir(parents=True)
    for companion in (folder / "__MACOSX" / "a" / "._0.png", folder / "a" / "._0.png"):
        companion.write_bytes(b"\0\5\x16\7")
    found = ImageFolder(folder)
    assert (found.classes, found.paths, found.fingerprint) == (plain.classes, plain.paths, plain.fingerprint)


def test_links_are_followed_and_a_circle_of_links_ends(folder, tmp_path):
    (tmp_path / "more").mkdir()
    shutil.copy(folder / "a" / "0.png", tmp_path / "more" / "9.png")
    (folder / "a" / "deep").mkdir()
    (folder / "a" / "deep" / "linked").symlink_to(tmp_path / "more", target_is_directory=True)
    (tmp_path / "more" / "round").symlink_to(folder / "a", target_is_directory=True)
    names = [p.name for p in picture_paths(folder / "a")]
    assert sorted(names) == ["0.png", "1.png", "2.png", "9.png"]


def test_a_link_up_to_the_folder_of_classes_brings_no_other_class_in(folder):
    plain = ImageFolder(folder)
    (folder / "a" / "up").symlink_to("..", target_is_directory=True)
    found = ImageFolder(folder)
    assert (found.paths, found.labels) == (plain.paths, plain.labels)


def test_pictures_of_a_kind_that_is_not_read_are_named(folder):
    (folder / "a" / "IMG_1.HEIC").write_bytes(b"phone")
    (folder / "a" / "cat.gif").write_bytes(b"GIF89a")
    (folder / "notes.txt").write_text("two cats")
    (folder / "README").write_text("two cats")
    (folder / "a" / "Thumbs.db").write_bytes(b"of the system")
    for name in ("IMG_2.HEIC", "more.heic"):
        shutil.copy(folder / "a" / "IMG_1.HEIC", folder / "b" / name)
    kinds = "3 .heic, 1 without ending, 1 .txt, 1 .gif"
    said = rf"6 files of .*photos are skipped: {kinds}, first README; expected .png"
    with pytest.warns(UserWarning, match=said):
        assert len(ImageFolder(folder)) == 6
    with pytest.warns(UserWarning, match=r"2 files of .*a are skipped: 1 .heic, 1 .gif, first IMG_1.HEIC"):
        assert len(picture_paths(folder / "a")) == 3


def test_images_beside_the_class_folders_are_counted(folder):
    shutil.copy(folder / "a" / "0.png", folder / "loose.jpg")
    with pytest.warns(
        UserWarning, match=r"1 images beside the class folders of .* not read, first loose.jpg"
    ):
        assert len(ImageFolder(folder)) == 6
    with refuses("b holds no class folders but 3 images; move them into", "NAME, one folder a class"):
        ImageFolder(folder / "b")


def test_folders_of_another_depth_are_told(folder, tmp_path):
    """Splits above the classes, a folder around them, an archive: none may become one class in silence."""
    for name in ("train", "Test"):
        shutil.copytree(folder, tmp_path / "split" / name)
    with refuses(
        "split holds the splits Test, train; expected the classes of one, as", "split/Test may hold"
    ):
        ImageFolder(tmp_path / "split")
    shutil.copytree(folder, tmp_path / "around" / "photos")
    with pytest.warns(
        UserWarning, match="class photos is made of 2 folders, a, b; to have these as classes,"
    ):
        assert ImageFolder(tmp_path / "around").classes == ["photos"]
    archive = shutil.make_archive(tmp_path / "photos", "zip", folder)
    with refuses("photos.zip, an archive; unpack it first; expected a folder", error=FileNotFoundError):
        ImageFolder(archive)


def test_a_class_of_files_that_are_not_read_says_which(folder):
    (folder / "c").mkdir()
    (folder / "c" / "IMG_1.HEIC").write_bytes(b"phone")
    with refuses("c holds no images but 1 .heic; expected .png, .jpg"):
        ImageFolder(folder)


def test_a_folder_that_may_not_be_read_is_named(folder, monkeypatch):
    """Listing it fails, as for a user without the right; a test may run as one who has every right."""
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("b"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with refuses("Permission denied", "photos/b", error=PermissionError):
        ImageFolder(folder)


def test_pictures_come_in_order_of_name_whatever_the_order_of_the_disk(tmp_path):
    names = [f"{i}.png" for i in (3, 0, 7, 1, 9, 5, 2, 8, 4, 6)]
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert [path.name for path in picture_paths(tmp_path)] == sorted(names)


def test_a_name_that_is_no_utf_8_is_read(folder):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    try:
        shutil.copy(folder / "a" / "0.png", folder / "a" / name)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    assert len(ImageFolder(folder)) == 7


# hub data sets


def test_a_folder_of_pictures_is_no_hub_data_set(folder):
    with refuses(f"folder {folder} holds no data set", "of images, no --hub", error=FileNotFoundError):
        HubImages(folder)


def test_labels_are_names_numbers_or_refused_in_one_line(tmp_path):
    known = datasets.ClassLabel(names=["a", "b"])
    words = on_hub(tmp_path / "words", ["dog", "cat", "dog"], datasets.Value("string"))
    assert words.classes == ["cat", "dog"] and words.labels == [1, 0, 1] and words[0][1] == 1
    with refuses("has label -1 for 2 of 4 images; expected 0 to 1"):
        on_hub(tmp_path / "unknown", [0, -1, 1, -1], known)
    with refuses("holds no images of 4 of 6 classes, first 1; expected labels without gaps"):
        on_hub(tmp_path / "gaps", [0, 5, 5, 0], datasets.Value("int64"))
    with refuses("has label None; expected integers"):
        on_hub(tmp_path / "none", [0, None], known)
    with refuses("has no split train; expected --split test"):
        on_hub(tmp_path / "split", [0, 1], known, split="test")
    with pytest.warns(UserWarning, match="holds no images of 1 of 2 classes, first a"):
        assert on_hub(tmp_path / "some", [1, 1], known).classes == ["a", "b"]  # names make up for the gap


def test_a_row_without_a_picture_is_named(tmp_path):
    known = datasets.ClassLabel(names=["a", "b"])
    images = on_hub(tmp_path / "hole", [0, 1], known, images=[Image.fromarray(noise()), None])
    with refuses("image 1 of", "cannot be read", "it is empty"):
        survey(images, 16)


def test_a_split_is_asked_of_a_folder_that_has_several(tmp_path):
    known = datasets.ClassLabel(names=["a", "b"])
    on_hub(tmp_path / "one", [0, 1], known)
    with refuses("split is test;", "holds one, None; expected no --split"):
        HubImages(tmp_path / "one", "test")
    on_hub(tmp_path / "several", [0, 1], known, split="train")
    assert len(HubImages(tmp_path / "several", "train")) == 2


def test_a_damaged_picture_of_a_data_set_is_named(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(whole, "png")
    cut = [dict(bytes=whole.getvalue()[:k], path=None) for k in (None, 300)]
    data = on_hub(tmp_path / "hub", [0, 0], datasets.ClassLabel(names=["a"]), cut)
    assert data[0][0].size == (64, 64)
    with refuses("image 1 of ", "cannot be read"):
        data[1]


# sets for `evaluate`


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_an_npz_of_another_form_is_refused(tmp_path):
    path, images = tmp_path / "s.npz", np.stack([noise(seed=i) for i in range(8)])
    assert np.array_equal(list(read_images(npz(path, arr_0=images))), images)
    for other in (images / 255, images.transpose(0, 3, 1, 2), images[..., 0], images[0], images[:, :0]):
        with refuses(f"holds arr_0 of {other.dtype} {other.shape}; expected arr_0 of uint8 (N, H, W, 3)"):
            read_images(npz(path, arr_0=other))
    with refuses("it holds mu, sigma"):
        read_images(npz(path, mu=images, sigma=images))
    npz(path, arr_0=images)
    for cut in (path.read_bytes()[:500], b""):
        path.write_bytes(cut)
        with refuses("s.npz cannot be read"):
            read_images(path)


def test_sets_that_are_constant_get_no_score(tmp_path):
    good = np.stack([noise(seed=i) for i in range(8)])
    plain = np.ones_like(good) * np.arange(8, dtype=np.uint8)[:, None, None, None]
    reference = npz(tmp_path / "reference.npz", arr_0=good)
    for bad, what in (
        (good * 0, "of one colour each"),
        (plain, "of one colour each"),
        (good[[0] * 8], "all alike"),
    ):
        path = npz(tmp_path / "bad.npz", arr_0=bad)
        for pair in ((path, reference), (reference, path)):
            with refuses(f"bad.npz: the 8 pictures are {what}; expected pictures that differ"):
                evaluate(*pair, Glyphs(), "glyphs")


@pytest.mark.parametrize(
    "head, said",
    [
        (b"", "it is empty"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC; save it as JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab", "run `git lfs pull`"),
        (b"<!DOCTYPE html><html>403 Forbidden", "it is HTML or XML, as a failed download leaves"),
        (b"just words", "it is no kind of picture that is known"),
    ],
)
def test_a_file_that_is_no_picture_says_what_it_is(head, said, tmp_path):
    (tmp_path / "p.jpg").write_bytes(head)
    for source in (tmp_path / "p.jpg", io.BytesIO(head)):
        with refuses("p.jpg cannot be read (UnidentifiedImageError: ", said):
            open_picture(source, "p.jpg")


def test_other_pictures_of_the_same_names_and_sizes_are_told_apart(folder):
    """Bitmaps of one size all have as many bytes."""
    path = folder / "a" / "0.bmp"
    seen = set()
    for seed in (0, 1, 0):
        Image.fromarray(noise(seed=seed)).save(path)
        seen.add((path.stat().st_size, ImageFolder(folder).fingerprint))
    assert len(seen) == 2 and len({size for size, _ in seen}) == 1
