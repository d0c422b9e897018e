"""Images held out of fine-tuning: which, that only they calibrate, and what the weights tell and do not."""

import re
import shutil
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import refuses
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dgtoy.pipeline import calibrate
from dgtoy.pipeline.image_sets import ImageFolder
from dgtoy.pipeline.latents import Latents, Pixels, held_out_rows, prepare

pytestmark = pytest.mark.filterwarnings("ignore:.*have one image")


@pytest.fixture
def folder(tmp_path):
    """Two classes of 10 and 5 pictures, and one of a single picture."""
    for name, count in (("a", 10), ("b", 5), ("c", 1)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            seed = [ord(name), i]
            pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i:02d}.png")
    return tmp_path / "photos"


def prepared(folder, out, share):
    list(prepare(ImageFolder(folder), out, 8, Pixels(), held_out=share))
    return out


# the split


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_of_each_class_about_the_share_is_held_out_but_never_all(label, share):
    label = torch.tensor(label)
    held = held_out_rows(label, share)
    for c in label.unique():
        n, count = (label == c).sum().item(), held[label == c].sum().item()
        assert count < n and (count >= 1 or n == 1)
        assert abs(count - share * n) <= 1 or count in (1, n - 1)


def test_what_is_held_out_is_spread_evenly():
    label = torch.arange(20) // 10
    assert held_out_rows(label, 0.2).nonzero()[:, 0].tolist() == [2, 7, 12, 17]
    assert not held_out_rows(label, None).any() and not held_out_rows(label, 0.0).any()


def test_training_images_and_held_out_ones_are_all_images_once(folder, tmp_path):
    whole = Latents(prepared(folder, tmp_path / "whole", 0.0))
    training, held = (Latents(prepared(folder, tmp_path / "split", 0.2), held_out=h) for h in (False, True))
    assert (len(training), len(held)) == (13, 3) and held.label.tolist() == [0, 0, 1]
    flat = lambda data: {bytes(x.numpy()) for x in data.mean.flatten(1)}
    assert flat(training) | flat(held) == flat(whole) and len(training) + len(held) == len(whole)
    assert training.fingerprint not in (whole.fingerprint, held.fingerprint)


def test_copies_are_told_where_a_copy_of_a_held_out_image_may_train(folder, tmp_path):
    paths = ImageFolder(folder).paths
    paths[-1].write_bytes(paths[0].read_bytes())
    prepared(folder, tmp_path / "all", 0)
    said = f"1 of {len(paths)} images are copies of others, first {paths[-1]} of {paths[0]}; expected none"
    with pytest.warns(UserWarning, match=re.escape(said)):
        prepared(folder, tmp_path / "held", 0.2)


def test_classes_of_one_image_are_told_as_none_of_theirs_is_held_out(folder, tmp_path):
    prepared(folder, tmp_path / "all", 0)
    with pytest.warns(UserWarning, match="1 of 3 classes have one image, first c, and none of theirs"):
        prepared(folder, tmp_path / "held", 0.2)


def test_the_plan_keeps_the_share_and_bad_ones_are_refused_before_it_is_written(folder, tmp_path):
    for share in (1.0, -0.1, float("nan")):
        with refuses(f"held_out is {share}; expected a share of each class"):
            prepared(folder, tmp_path / "l", share)
    assert not (tmp_path / "l").exists()
    assert Latents(prepared(folder, tmp_path / "l", 0.2)).plan["held_out"] == 0.2
    with refuses("was prepared with held_out 0.2; this run has 0.4"):
        prepared(folder, tmp_path / "l", 0.4)


# what may calibrate


def test_images_that_a_fine_tune_was_trained_on_do_not_calibrate_it(folder, tmp_path):
    whole, split = prepared(folder, tmp_path / "whole", 0.0), prepared(folder, tmp_path / "split", 0.2)
    trained_on = lambda path: dict(data=Latents(path).fingerprint, images=Latents(path).plan["images"])
    for path, other in ((whole, whole), (whole, split), (split, whole)):  # or shared out otherwise
        with refuses(f"{path} hold images that ft was trained on; expected some", "--held-out 0.2"):
            calibrate.unseen(path, "ft", trained_on(other))
    assert len(calibrate.unseen(split, "ft", trained_on(split))) == 3  # the held-out part
    assert (
        len(calibrate.unseen(whole, "ft", dict(data="d", images="others"))) == 16
    )  # other images, as prepare wrote them
    for path, made in ((split, dict(data="of a file of before")), (split, {}), (whole, {})):
        with pytest.warns(UserWarning, match="whether ft was trained on the held-out images of .* not known"):
            calibrate.unseen(path, "ft", made)
    with refuses("whole hold no held-out images; expected --held-out 0.2 of prepare"):
        Latents(whole, held_out=True)


def test_copies_of_training_images_do_not_calibrate_whatever_they_are_called(folder, tmp_path):
    trained = Latents(prepared(folder, tmp_path / "trained", 0.0))
    made = dict(data=trained.fingerprint, images=trained.plan["images"], seen=trained.digest.tolist())
    few = tmp_path / "few" / "a"
    few.mkdir(parents=True)
    for i in range(3):
        shutil.copy(folder / "a" / f"0{i}.png", few / f"renamed-{i}.png")
    with refuses("copies hold images that ft was trained on; expected some that it has not seen"):
        calibrate.unseen(prepared(few.parent, tmp_path / "copies", 0.0), "ft", made)
    Image.new("RGB", (8, 8), "red").save(few / "new.png")
    mixed = prepared(few.parent, tmp_path / "mixed", 0.0)
    with pytest.warns(UserWarning, match="3 of 4 images of .*mixed are copies of images that ft was trained"):
        data = calibrate.unseen(mixed, "ft", made)
    assert data.mean.shape == (1, 1, 3, 8, 8) and data.mean[0, 0, :, 0, 0].tolist() == [255, 0, 0]


# what weights tell


def calibration(weights, half=0.02):
    """A Calibration with the interval `half` to either side.  weights (n,) or (n, 2)"""
    w = torch.as_tensor(weights, dtype=torch.float64)
    w = w[:, None] if w.ndim == 1 else w
    sigmas = torch.tensor([40.0, 5.0, 1.0, 0.1], dtype=torch.float64)[: len(w)]
    return types.SimpleNamespace(sigmas=sigmas, weights=w, low=w - half, high=w + half)


@pytest.mark.parametrize(
    "weights, half, word",
    [
        ([1.0, 1.08, 1.6], 0.02, "unfinished: guidance with w about 1.08"),
        ([1.0, 1.06, 1.6], 0.02, "finished: by squared error on held-out images no weight is better than 1"),
        ([0.5, 0.94, 1.2], 0.02, "finished"),
        ([0.5, 0.92, 1.2], 0.02, "overfitted"),
        ([1.0, 1.0, 1.0], 0.11, "not judged: the interval is too wide"),
    ],
)
def test_what_the_weights_tell_and_what_they_do_not(weights, half, word):
    text = calibrate.recommend(dict(DoG=calibration(weights, half)))
    assert f"the fine-tune is {word}" in text and "saturates them it cannot tell" in text
    assert f"from {min(weights):.2f} at sigma" in text and "search" not in text


def drawn(weights):
    """The figure of weights, of which the first method has these."""
    plane = calibration(torch.ones(4, 2))
    fig = calibrate.figure(dict(DoG=calibration(weights), CFG=calibration([1.0] * 4), plane=plane))
    return fig, fig.axes[0]


def test_the_plot_is_readable_whatever_one_level_does():
    fig, ax = drawn([1.1, 1.2, -4e6, 1.3])
    bottom, top = ax.get_ylim()
    assert (bottom, top) == (0.0, 2.0) and ax.get_xlim()[0] > ax.get_xlim()[1]
    assert [text.get_text().strip() for text in ax.texts] == ["-4e+06"]
    assert [line.get_marker() for line in ax.lines if len(line.get_xdata()) == 1] == ["v"]
    fig, ax = drawn([1.1, 1.2, 1.2, 1.3])
    assert not ax.texts
    wide = drawn([2.5, 2.6, 2.7, 2.8])[1].get_ylim()
    assert wide[0] == 0 and wide[1] > 3


def test_the_files_are_the_same_under_a_dark_theme(tmp_path):
    found = dict(DoG=calibration([1.0] * 4), CFG=calibration([1.0] * 4), plane=calibration(torch.ones(4, 2)))
    calibrate.save(found, tmp_path / "light", dict(guide="g"))
    with plt.style.context("dark_background"):
        calibrate.save(found, tmp_path / "dark", dict(guide="g"))
    light, dark = (tmp_path / name / "calibration.png" for name in ("light", "dark"))
    assert np.array_equal(Image.open(light), Image.open(dark))
    assert np.asarray(Image.open(light).convert("L"))[0, 0] == 255
