"""The study of photographs at toy size: made-up pictures, a small network, other features."""

import copy
import dataclasses
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import refuses, shaken

from dgtoy import shipped
from dgtoy.course import photo_judge, rivals
from dgtoy.course import photos as tuning
from dgtoy.course.claims import photos as claims
from dgtoy.course.experiments import photos as study
from dgtoy.course.experiments import (
    photos_guides,
    photos_large,
    photos_length,
    photos_plane,
    photos_recipes,
    photos_relatives,
    photos_stranger,
    posters,
)
from dgtoy.course.intervals import ratio
from dgtoy.course.lab import FIELD, replace
from dgtoy.course.photo_judge import PhotoSetting
from dgtoy.course.records import rows, values
from dgtoy.course.worlds import photos
from dgtoy.dit import DiT, Flow
from dgtoy.guidance import blurred
from dgtoy.pipeline.finetune import DogFit

SETTING = PhotoSetting(
    seeds=2,
    samples=16,
    steps=3,
    size=6,
    finetune=replace(PhotoSetting().finetune, steps=10, batch=4, lr=1e-2),
)

NONE = dict(method="none")


class Corners:
    """Twelve features: the mean colour of each quarter of a picture."""

    checksum, resize, device = "none", "none", "cpu"

    def __call__(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images.float() / 100, 2).flatten(1)


def pictures(n, seed):
    """Two classes of n pictures each, reddish and bluish."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(60, 140, (2 * n, 3, 2, 2), generator=g)
    label = torch.arange(2 * n) % 2
    x[label == 0, 0] += 100
    x[label == 1, 2] += 100
    x = x.repeat_interleave(32, 2).repeat_interleave(32, 3).to(torch.uint8)
    return photos.Photos(x, label, ["red", "blue"])


@pytest.fixture(autouse=True, scope="module")
def world(tmp_path_factory, code_read_once):
    net = Flow(shaken(DiT(64, 16, 3, 16, 1, 2, 5, learn_sigma=False, flow=True), 1))
    split = photos.Split(pictures(20, 0), pictures(20, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGTOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(photo_judge, "extractor", lambda name, device: Corners())
        patch.setattr(photos, "source", lambda folder=None: split)
        patch.setattr(photos, "target", lambda name, folder=None, size=None: split)
        patch.setattr(shipped, "load", lambda name, device="cpu": net.clone())
        yield split


@pytest.fixture(scope="module")
def record(world):
    return study.run(
        dataclasses.replace(study.Config.quick(), setting=SETTING, targets=("food", "insects", "art7"))
    )


def test_every_method_is_scored_on_every_target(record):
    rows = record["results"]["rows"]
    names = {r["method"] for r in rows}
    assert names == {"none", *FIELD, study.IN_PROPORTION}
    assert len(rows) == 3 * len(names) and all(len(r["frechet"]) == 2 for r in rows)
    assert set(record["results"]["floor"]) == {"food", "insects", "art7"}
    one = [r for r in rows if r["target"] == "food"]
    assert len({tuple(r["frechet"]) for r in one}) == len(one)  # no method is another
    study.figure(record)


def test_the_rules_judge_the_record_of_the_targets(record):
    order, far = claims.c13(record), claims.c14(record)
    assert set(order.parts) == {
        f"{part}: {t}" for part in ("DoG < CFG", "CFG < none", "precision up") for t in ("food", "insects")
    }
    assert far.value == pytest.approx(
        ratio(*(values(record, "frechet", target="art7", **m) for m in (dict(method="DoG", w=1.5), NONE)))[0]
    )
    assert set(far.parts) == {"DoG harms: w = 1.5", "CFG does not"}


def test_a_rule_sees_the_better_method(record):
    """The record with every distance of DoG halved, and with CFG's halved."""
    for better, held in (("DoG", True), ("CFG", False)):
        changed = copy.deepcopy(record)
        for r in changed["results"]["rows"]:
            share = 0.5 if r["method"] == better else 1 / 0.9 if r["method"] == "none" else 1.0
            r["frechet"] = [share * (50 + seed / 10) for seed, _ in enumerate(r["frechet"])]
        found = claims.c13(changed)
        assert found.parts["DoG < CFG: food"] == held
        assert found.parts["CFG < none: food"]


def test_a_seed_is_another_choice_of_pictures_and_trains_another_network(world):
    few = replace(SETTING, size=6)
    a, b = (tuning.chosen(few, seed) for seed in (0, 1))
    assert len(a) == 12 and not torch.equal(a, b)
    assert world.train.label[a].bincount().tolist() == [6, 6]
    assert torch.equal(tuning.chosen(replace(SETTING, size=None), 0), torch.arange(40))
    base = shipped.load("photos64")
    kept = tuning.finetuned(SETTING, 0, base, at=(2,))
    again, other = (tuning.finetuned(SETTING, seed, base)[10] for seed in (0, 1))
    assert set(kept) == {2, 10} and kept[10].null == 2
    for name, p in kept[10].params.items():
        assert torch.equal(p, again.params[name])
    assert any(not torch.equal(p, other.params[name]) for name, p in kept[10].params.items())


def test_copies_are_counted_against_what_a_seed_learnt(world):
    judge = photo_judge.PhotoJudge(SETTING)
    rows = tuning.chosen(SETTING, 3)
    judge.learnt_from(rows)
    assert judge.nearest(judge.train[rows]).max() < 1e-3


def test_blurred_in_proportion_is_blurred_by_a_share_of_the_noise():
    D = lambda x, sigma: x / (1 + sigma**2)
    x = torch.randn(5, 3, 4, 4)
    for sigma in (0.1, 2.0):
        wide = study.widened(D, 0.3)(x, torch.tensor(sigma))
        torch.testing.assert_close(wide, blurred(D, 0.3 * sigma)(x, torch.tensor(sigma)))


def test_every_guide_is_tried_at_every_stage(world):
    config = dataclasses.replace(
        photos_guides.Config.quick(), setting=SETTING, stages=(4, 10), targets=("food", "insects")
    )
    record = photos_guides.run(config)
    rows = record["results"]["rows"]
    assert len(rows) == 4 * (1 + len(photos_guides.GUIDES))
    for target in config.targets:
        one = [tuple(r["frechet"]) for r in rows if r["target"] == target]
        assert len(set(one)) == len(one)  # no guide is another
    at = lambda guide: photos_guides.distance(record, "food", 10, guide).mean()
    ratio = photos_guides.relative(record, "food", 10, "own null")
    assert ratio == pytest.approx(at("own null") / at("pre-trained"))
    guides = [g for g in photos_guides.GUIDES if g != "pre-trained"]
    assert set(claims.c15(record).parts) == {f"{s} steps: ahead of {g}" for s in (4, 10) for g in guides}
    assert len(claims.c24(record).parts) == 4
    photos_guides.figure(record)
    ax = plt.figure().gca()
    photos_guides.over_class_error(ax, record, ("none", "half-way"))
    none, *_ = (line.get_xydata() for line in ax.lines)
    named = [r["class_accuracy"] for r in rows if r["stage"] == 10 and r["guide"] == "none"]
    ratios = [photos_guides.relative(record, t, 10, "none") for t in config.targets]
    assert none[1] == pytest.approx([1 - np.mean(named), np.prod(ratios) ** 0.5])
    plt.close("all")


def test_a_mixture_of_weights_ends_at_both_networks(world):
    base = shipped.load("photos64")
    tuned = tuning.finetuned(SETTING, 0, base)[10]
    x, sigma = torch.randn(2, 3, 64, 64), torch.tensor(1.0)
    whole = photos_guides.mixed(base, tuned, 1.0)
    torch.testing.assert_close(whole.denoiser(1)(x, sigma), tuned.denoiser(1)(x, sigma))
    none = photos_guides.mixed(base, tuned, 0.0).net.state_dict()
    for name, p in base.net.named_parameters():
        assert name.startswith("y_embedder") or torch.equal(none[name], p)


def test_the_gaussian_of_a_spectrum_is_the_best_linear_denoiser():
    """White pictures with correlated channels: per pixel D = mean + S (S + sigma^2)^-1 (x - mean)."""
    g = torch.Generator().manual_seed(0)
    mix = torch.tensor([[30.0, 0.0, 0.0], [20.0, 10.0, 0.0], [5.0, 5.0, 5.0]])
    x = 128 + torch.einsum("cd,ndhw->nchw", mix, torch.randn(600, 3, 8, 8, generator=g))
    data = photos.Photos(x.round().clamp(0, 255).to(torch.uint8), torch.zeros(600, dtype=torch.long), ["a"])
    D = photos_guides.Spectrum(data, "cpu")
    S = (mix / 127.5) @ (mix / 127.5).T
    sigma, y = torch.tensor(0.2), torch.randn(4, 3, 8, 8, generator=g)
    gain = S @ torch.linalg.inv(S + sigma**2 * torch.eye(3))
    mean = (x.mean((0, 2, 3)) / 127.5 - 1)[:, None, None]
    exact = mean + torch.einsum("cd,ndhw->nchw", gain, y - mean)
    found = D(y, sigma)
    assert (found - exact).norm() < 0.15 * exact.norm()  # 600 pictures tell S(f) to some per cent
    torch.testing.assert_close(D(y, sigma.expand(4)), found)


def test_every_recipe_is_tried_and_every_sampler_on_the_first(world):
    recipes, samplers = photos_recipes.RECIPES, photos_recipes.SAMPLERS
    config = dataclasses.replace(
        photos_recipes.Config.quick(),
        setting=replace(SETTING, size=6),
        recipes=tuple(name for name in recipes if "pictures" not in name),
        samplers=tuple(samplers),
    )
    record = photos_recipes.run(config)
    rows = record["results"]["rows"]
    assert len(rows) == 3 * (len(config.recipes) + len(samplers) - 1)
    assert len({tuple(r["frechet"]) for r in rows}) == len(rows)  # no recipe and no sampler is another
    assert len(claims.c25(record).parts) == 2 * (len(config.recipes) + len(samplers) - 1)
    assert set(claims.c16(record).parts) == {"DoG < none", "DoG < CFG"}
    photos_recipes.figure(record)


def test_every_relative_is_another_method_and_its_rule_goes_both_ways(world):
    config = photos_relatives.Config(SETTING, targets=("food", "insects"), b=0.5)
    record = photos_relatives.run(config)
    rows = record["results"]["rows"]
    assert len(rows) == 2 * (1 + len(rivals.METHODS))
    assert len({(*r["frechet"], *r["frechet_means"]) for r in rows}) == len(rows) / 2  # one world here
    photos_relatives.figure(record)

    def judged(**frechet):
        """By methods that are told, else 2 of none and CFG's updates and 1 of all others."""
        told = dict.fromkeys(("none", *claims.UPDATES["CFG"]), 2.0) | frechet
        again = [r | dict(frechet=[told.get(r["method"], 1.0)] * 2) for r in rows]
        return claims.c33(record | dict(results=dict(rows=again)))

    assert judged().verdict == "holds"
    found = judged(**{"CFG++": 0.9, "DoG, APG": 0.9}).parts
    assert {name for name, good in found.items() if not good} == {
        f"{what}: {target}"
        for what in ("CFG's guide does not reach DoG, CFG++", "no gain of 5% over DoG, DoG, APG")
        for target in ("food", "insects")
    }


def test_a_recipe_changes_what_it_says():
    of = lambda name: photos_recipes.of_recipe(SETTING, name)
    assert of("twice as long").finetune.steps == 2 * of("LoRA").finetune.steps == 20
    assert (of("LoRA").finetune.rank, of("no label dropout").finetune.dropout) == (8, 0.0)
    assert of("20 pictures a class").size == 20 and of(photos_recipes.MAIN) == SETTING


def test_the_plane_is_mapped_and_weights_are_found_on_pictures_set_apart(world):
    config = dataclasses.replace(
        photos_plane.Config.quick(), setting=SETTING, stages=(4, 10), targets=("food", "insects"), few=4
    )
    record = photos_plane.run(config)
    rows = [r for r in record["results"]["rows"] if r["target"] == "food" and r["stage"] == 10]
    names = [r["method"] for r in rows]
    assert names.count("plane") == 5 and names.count("DogFit") == 1 and len(rows) == 10
    assert len({tuple(r["frechet"]) for r in rows}) == 10
    (fit,) = [f for f in record["results"]["fits"] if f["target"] == "food" and f["stage"] == 10]
    assert np.shape(fit["plane"]) == (2, len(config.levels), 2)
    assert np.isin(fit["trajectories"], config.tried).all()
    assert len(claims.c17_photos(record).parts) == 2 and len(claims.c19_photos(record).parts) == 4
    assert len(claims.c18_photos(record).parts) == 8
    photos_plane.figure(record)


def test_pictures_set_apart_are_not_trained_on():
    rest, apart = photos_plane.divided(torch.arange(5, 45), 0.1, seed=3)
    assert len(apart) == 4 and sorted([*rest.tolist(), *apart.tolist()]) == list(range(5, 45))
    assert not torch.equal(apart, photos_plane.divided(torch.arange(5, 45), 0.1, seed=4)[1])


def test_dogfit_settles_where_guidance_of_its_weight_leads():
    """At v = v_guide + w (E v_flow - v_guide) the loss is flat; without a label at E v_flow."""
    x0, eps = torch.randn(2, 32, 3, 4, 4)
    other = torch.randn(1, 3, 4, 4)
    guide = types.SimpleNamespace(predict=lambda x, t, y: other, null=7)
    time, flow = torch.rand(32), (eps - x0).mean(0, keepdim=True)
    for label, aim in ((1, other + 2.5 * (flow - other)), (2, flow)):
        v = aim.clone().requires_grad_()
        net = types.SimpleNamespace(predict=lambda x, t, y: v, null=2)
        loss = DogFit(guide, 2.5)(net, x0, torch.full((32,), label), time, eps)
        (slope,) = torch.autograd.grad(loss, v)
        assert slope.abs().max() < 1e-7
    with refuses("w is 0.5; expected a number in [1, inf)"):
        DogFit(guide, 0.5)


def test_a_larger_model_is_judged_by_the_rule_of_the_order_and_shows_its_first_pictures(world, monkeypatch):
    monkeypatch.setattr(shipped, "facts", lambda name, folder=None: dict(recipe=f"{name} of {folder}"))
    asked = []
    own = photos_large.pretrained
    monkeypatch.setattr(photos_large, "pretrained", lambda base, d: asked.append(base) or own("photos64", d))
    config = photos_large.Config(SETTING, base="other", targets=("food", "insects"))
    record = photos_large.run(config)
    assert set(asked) == {"other", "photos64"} and record["results"]["pretraining"] == "photos64 of other"
    of_source = {(r["base"], r["method"]) for r in rows(record, target="source")}
    assert of_source == {(base, m) for base in ("other", "photos64") for m in ("none", "CFG")}
    assert {r["base"] for r in rows(record, target="food")} == {"other"}
    assert set(claims.c13(record).parts) == {
        f"{part}: {t}" for part in ("DoG < CFG", "CFG < none", "precision up") for t in config.targets
    }
    strips = record["results"]["strips"]
    assert [(r["target"], r["row"]) for r in strips] == [
        (t, name) for t in config.targets for name in photos_large.ROWS
    ]
    assert all(posters.strip(r).shape == (64, config.count * 64, 3) for r in strips)
    assert len({r["strip"] for r in strips if r["target"] == "food"}) == len(photos_large.ROWS)
    photos_large.figure(record)


def test_a_stranger_that_is_the_ancestor_guides_as_it_does_and_the_rule_goes_both_ways(world):
    record = photos_stranger.run(photos_stranger.Config(SETTING, targets=("food", "insects")))
    rows = record["results"]["rows"]
    assert len(rows) == 2 * 3
    at = lambda method: values(record, "frechet", target="food", method=method)
    assert np.array_equal(at("DoG"), at("stranger")) and not np.array_equal(at("DoG"), at("none"))
    photos_stranger.figure(record)

    def parts(stranger):
        told = dict(none=2.0, DoG=1.0, stranger=stranger)
        changed = [r | dict(frechet=[told[r["method"]]] * 2) for r in rows]
        return set(claims.c34(record | dict(results=dict(rows=changed))).parts.values())

    assert parts(1.02) == {True} and parts(1.5) == {True, False} and parts(2.5) == {False}


def test_another_model_is_another_guide(world, monkeypatch):
    other = Flow(shaken(DiT(64, 16, 3, 16, 1, 2, 5, learn_sigma=False, flow=True), 2))
    own = photos_stranger.pretrained
    monkeypatch.setattr(
        photos_stranger,
        "pretrained",
        lambda base, device: other.clone() if base == "other" else own(base, device),
    )
    record = photos_stranger.run(photos_stranger.Config(SETTING, stranger="other"))
    at = lambda method: values(record, "frechet", method=method)
    assert not np.array_equal(at("DoG"), at("stranger"))


def test_fine_tunes_are_judged_at_every_length_with_the_loss_on_pictures_they_have_not_seen(world):
    config = photos_length.Config(SETTING, stages=(4, 10), targets=("food", "insects"), share=0.2)
    record = photos_length.run(config)
    rows = record["results"]["rows"]
    assert len(rows) == 2 * 2 * 3 and all(set(r["lr"]) <= set(config.rates) for r in rows)
    loss = {stage: values(record, "loss", target="food", stage=stage, method="none") for stage in (4, 10)}
    assert not np.array_equal(loss[4], loss[10])
    photos_length.figure(record)
    plt.close("all")

    def parts(dog, last):
        told = dict(none=2.0, CFG=1.5, DoG=dog)
        changed = [
            r | dict(frechet=[told[r["method"]]] * 2, loss=[last if r["stage"] == 10 else 1.0] * 2)
            for r in rows
        ]
        return list(claims.c36(record | dict(results=dict(rows=changed))).parts.values())

    assert parts(1.0, 1.1) == [True] * 6
    assert parts(1.6, 0.9) == [False] * 2 + [True] * 2 + [False] * 2
    assert parts(2.1, 1.1) == [True] * 2 + [False] * 4


def test_the_loss_is_that_of_training_with_the_same_draws_for_every_network():
    data = photos.Photos(
        torch.randint(0, 255, (6, 3, 64, 64), dtype=torch.uint8), torch.arange(6) % 2, ["a", "b"]
    )
    net = Flow(shaken(DiT(64, 16, 3, 16, 1, 2, 2, learn_sigma=False, flow=True), 1))
    x0, label = data.draw(torch.arange(12) % 6, torch.zeros(12, dtype=torch.bool))
    g = torch.Generator().manual_seed(40_000)
    t, eps = torch.sigmoid(0.3 + torch.randn(12, generator=g)), torch.randn(x0.shape, generator=g)
    s = t[:, None, None, None]
    with torch.no_grad():
        v = net.predict((1 - s) * x0 + s * eps, 1000 * t, label)
    plain = (v - eps + x0).square().mean().item()
    assert photos_length.loss_on(net, data, 2) == pytest.approx(plain, rel=1e-5)
