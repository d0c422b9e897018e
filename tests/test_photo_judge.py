"""The judge of photographs, with a stand-in for its feature network on made-up pictures."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import refuses

from dgtoy import metrics
from dgtoy.course import photo_judge
from dgtoy.course.photo_judge import PhotoJudge, PhotoSetting, Ridge, in_proportion, matched
from dgtoy.course.worlds import packs, photos
from dgtoy.pipeline.pictures import to_uint8

close = torch.testing.assert_close


class Corners:
    """Twelve features: the mean colour of each quarter of a picture."""

    checksum, resize, device = "none", "none", "cpu"
    calls = 0

    def __call__(self, images):
        Corners.calls += 1
        return torch.nn.functional.adaptive_avg_pool2d(images.float() / 100, 2).flatten(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A collection of three classes, 60, 40 and 20 pictures: reddish, greenish, bluish."""
    rng, x, label = np.random.default_rng(0), [], []
    for k, n in enumerate((60, 40, 20)):
        base = rng.integers(60, 140, (n, 2, 2, 3))
        base[..., k] += 100
        x.append(base.repeat(32, 1).repeat(32, 2).astype(np.uint8))
        label += [k] * n
    folder = tmp_path_factory.mktemp("photos")
    packs.write(folder / "food10.npz", np.concatenate(x), label, ["red", "green", "blue"])
    return folder


@pytest.fixture(scope="module")
def judge(place, tmp_path_factory):
    few = dataclasses.replace(photos.COLLECTIONS["food10"], classes=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGTOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(photo_judge, "extractor", lambda name, device: Corners())
        patch.setitem(photos.COLLECTIONS, "food10", few)
        yield PhotoJudge(PhotoSetting(domain="food10", size=5, samples=48, steps=4), folder=place)


def in_units(x):
    """Bytes as images in [-1, 1] that `to_uint8` turns back into the same."""
    return (x.float() - 127.5) / 127.5


def test_it_knows_the_classes_of_true_pictures_and_samples_in_their_proportions(judge):
    assert judge.accuracy > 0.9
    assert judge.label.bincount().tolist() == [24, 16, 8]
    assert len(judge.start(0)) == 48 and not torch.equal(judge.start(0), judge.start(1))


def test_scores_are_the_metrics_of_the_features(judge, place):
    truth = photos.target("food10", place).truth
    x = torch.rand(48, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found, seen = judge.score(x), judge.read(to_uint8(x), judge.net)
    assert tuple(found) == judge.metrics
    true = judge.read(truth.x, judge.net)
    assert found["frechet"] == pytest.approx(metrics.frechet_distance(true, seen).item(), abs=1e-5)
    assert found["frechet_second"] == pytest.approx(found["frechet"], abs=1e-5)  # one network for both here
    means = (true.double().mean(0) - seen.double().mean(0)).square().sum().item()
    assert found["frechet_means"] == pytest.approx(means, abs=1e-5)
    neighbours = true[matched(judge.label, truth.label, 0)]
    for name, value in metrics.prdc(neighbours, seen).items():
        assert found[name] == pytest.approx(value, abs=1e-5)


def test_pictures_of_the_training_half_score_as_the_floor_and_beat_all_of_one_class(judge, place):
    train = photos.target("food10", place).train
    rows = matched(judge.label, train.label, 3)
    found, floor = judge.score(in_units(train.x[rows])), judge.floor(seeds=[3])
    for name in judge.metrics[:7]:
        assert found[name] == pytest.approx(floor[name][0], abs=1e-4)
    red = judge.score(in_units(train.x[:1].expand(48, -1, -1, -1)))
    assert red["frechet"] > 5 * floor["frechet"][0]
    assert red["class_accuracy"] == 0.5 and red["coverage"] < 0.5


def test_copies_are_told_from_other_true_pictures(judge, place):
    """Of the pictures learnt from all are copies; true pictures score what the floor says."""
    train, truth = photos.target("food10", place)
    learnt = train[photos.first(train.label, 5)]
    assert len(judge.learnt) == 15
    copies = learnt.x.repeat(4, 1, 1, 1)[:48]
    assert judge.score(in_units(copies))["copies"] == 1
    near = judge.nearest(judge.truth) < judge.near
    assert near.float().mean() <= 0.02 and judge.floor([0])["copies"] == [0.01]


def test_features_of_true_pictures_are_kept_on_disk(judge, place):
    calls = Corners.calls
    again = PhotoJudge(judge.setting, folder=place)
    assert Corners.calls == calls
    close(again.truth, judge.truth)
    assert again.accuracy == judge.accuracy


def test_samples_do_not_depend_on_the_batch_and_methods_share_their_noise(judge):
    """A denoiser that knows its label lands on the colour of that label."""
    seen = []

    def method(label):
        colour = label.float()[:, None, None, None] / 4

        def D(x, sigma):
            seen.append(x)
            return colour.expand_as(x)

        return D

    whole, parts = judge.sample(method, 7), judge.sample(method, 7, batch=10)
    close(whole, parts)
    close(whole[:, 0, 0, 0], judge.label / 4)
    close(seen[0], 80 * judge.start(7))
    assert judge.judged(method, 7) == judge.score(whole)


def test_a_judge_that_cannot_tell_the_classes_does_not_score_them(judge, place, monkeypatch):
    def blindly(self, x):
        return torch.randn(len(x), 12, generator=torch.Generator().manual_seed(int(x.sum())))

    monkeypatch.setattr(Corners, "__call__", blindly)
    monkeypatch.setattr(Corners, "checksum", "blind")
    blind = PhotoJudge(judge.setting, folder=place)
    assert blind.accuracy < 0.75 and "class_accuracy" not in blind.metrics
    assert "class_accuracy" not in blind.score(torch.zeros(48, 3, 64, 64))


def test_equal_classes_take_turns_and_others_keep_their_proportions():
    equal = torch.arange(3).repeat_interleave(10)
    assert torch.equal(in_proportion(equal, 8), torch.arange(8) % 3)
    unequal = torch.tensor([0] * 30 + [1] * 20 + [2] * 10)
    found = in_proportion(unequal, 12)
    assert found.bincount().tolist() == [6, 4, 2] and found[:6].bincount().tolist() == [3, 2, 1]
    assert in_proportion(unequal, 60).bincount().tolist() == [30, 20, 10]
    assert in_proportion(unequal, 7).bincount().sum() == 7


def test_matched_pictures_show_what_was_asked_none_twice():
    known, label = torch.arange(30) % 3, torch.tensor([2, 0, 0, 1, 2])
    rows = matched(label, known, 0)
    assert torch.equal(known[rows], label) and len(rows.unique()) == 5
    assert not torch.equal(rows, matched(label, known, 1))


def test_the_classifier_is_least_squares_with_its_damping_as_further_rows():
    g = torch.Generator().manual_seed(0)
    x, label = torch.randn(90, 6, generator=g, dtype=torch.float64), torch.arange(90) % 3
    x[:, :3] += torch.nn.functional.one_hot(label)
    y = torch.nn.functional.one_hot(label).double()
    damping = 0.3 * x.var(0, correction=0).mean()
    rows = torch.cat([x - x.mean(0), (90 * damping).sqrt() * torch.eye(6)])
    known = torch.linalg.lstsq(rows, torch.cat([y - y.mean(0), torch.zeros(6, 3)])).solution
    mine = Ridge(x, label, 0.3)
    close(mine.weight, known)
    assert torch.equal(mine(x), ((x - x.mean(0)) @ known + y.mean(0)).argmax(1))


def test_the_pre_trained_model_is_judged_by_the_source(judge, monkeypatch):
    """Of its held-out pictures, the classes in turn."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(256, (80, 3, 64, 64), generator=g, dtype=torch.uint8)
    train, truth = (
        photos.Photos(x[part], torch.arange(80)[part] % 4, list("abcd"))
        for part in (slice(60), slice(60, 80))
    )
    monkeypatch.setattr(photos, "source", lambda folder: photos.Split(train, truth))
    found = PhotoJudge(PhotoSetting(domain="source", size=None, samples=48))
    assert torch.equal(found.label, torch.arange(20) % 4)
    close(found.truth, Corners()(truth.x))


def test_a_target_that_is_not_there_is_refused(judge, place):
    with refuses("name is 'fruit'", "food"):
        PhotoJudge(PhotoSetting(domain="fruit"), folder=place)
