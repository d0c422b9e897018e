"""The way of photographs at toy size: made-up pictures, a small network; and the law on exact Gaussians."""

import dataclasses
import math
import pathlib

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import shaken

from dgtoy import shipped, theory
from dgtoy.course import records
from dgtoy.course.claims.photos_why import c20, fitted
from dgtoy.course.domain_classifier import domain_classifier
from dgtoy.course.experiments import directions, photos_why
from dgtoy.course.intervals import student
from dgtoy.course.worlds import photos
from dgtoy.dit import DiT, Flow

CONFIG = dataclasses.replace(photos_why.Config.quick(), labels=(0, 1))


def pictures(n, seed, tint):
    """Two classes of n pictures each, smooth, reddish or bluish, and darker by `tint`."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(60, 140, (2 * n, 3, 4, 4), generator=g) - tint
    label = torch.arange(2 * n) % 2
    x[label == 0, 0] += 60
    x[label == 1, 2] += 60
    x = x.repeat_interleave(16, 2).repeat_interleave(16, 3).to(torch.uint8)
    return photos.Photos(x, label, ["red", "blue"])


@pytest.fixture(scope="module")
def record(tmp_path_factory, code_read_once):
    net = Flow(shaken(DiT(64, 16, 3, 16, 1, 2, 5, learn_sigma=False, flow=True), 1))

    def load(name, device="cpu"):
        if name == "photos64":
            return net.clone()
        tuned = net.with_classes(2)
        shaken(tuned.net, 2)
        return tuned

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGTOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(
            photos, "source", lambda folder=None: photos.Split(pictures(40, 0, 0), pictures(20, 1, 0))
        )
        patch.setattr(
            photos, "target", lambda name, folder=None: photos.Split(pictures(20, 2, 50), pictures(20, 3, 50))
        )
        patch.setattr(shipped, "load", load)
        yield photos_why.run(CONFIG)


def test_a_record_holds_every_method_at_every_level_and_can_be_drawn_and_judged(record):
    cells = record["results"]["cells"]
    assert [cell["target"] for cell in cells] == list(CONFIG.targets)
    for cell in cells:
        assert len(cell["on_truth"]) == len(CONFIG.levels)
        assert set(cell["odds"]) == {"right", "truth", "source", "none", *photos_why.GUIDED}
        assert all(len(v) == CONFIG.steps for v in cell["odds"].values())
        assert all(len(v) == 2 * CONFIG.rank for found in cell["directions"].values() for v in found.values())
        changes = [tuple(found["change"]) for found in cell["directions"].values()]
        assert len(set(changes)) == len(changes)  # no method is another
        assert cell["directions"]["none"]["push"] == [0.0] * 2 * CONFIG.rank
    assert c20(record).verdict in ("holds", "holds in part", "fails")
    photos_why.figure(record)


def gaussian(mean, std):
    """The exact denoiser of a Gaussian with independent entries."""
    return lambda x, sigma: mean + std**2 / (std**2 + sigma**2) * (x - mean)


@pytest.fixture(scope="module")
def exact():
    """Paths of 400 points under exact Gaussians, broad in the guide, narrow in the main model."""
    source, target = torch.full((6,), 3.0).double(), torch.tensor([0.3, 0.5, 1, 2, 3, 3.5]).double()
    sigmas = torch.logspace(math.log10(80), -1.5, 121).double()
    x_T = sigmas[0] * torch.randn(400, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    main, guide = gaussian(torch.ones(6).double(), target), gaussian(torch.zeros(6).double(), source)
    walk = lambda w: directions.walk(main, guide, w, x_T, sigmas, torch.diag(1 / source))
    found = {name: directions.narrowing(walk(w), sigmas, w) for name, w in (("none", 1.0), ("DoG", 2.0))}
    return source, target, sigmas, found


def test_the_law_accounts_for_each_direction_with_guidance_and_without(exact):
    for found in exact[3].values():
        np.testing.assert_allclose(found["law"], found["change"], atol=0.01)


def test_the_push_of_exact_gaussians_is_the_closed_form(exact):
    source, target, sigmas, found = exact
    std = theory.gaussian_guidance((1.0, target.numpy()), (0.0, source.numpy()), 2.0)[1]
    np.testing.assert_allclose(found["DoG"]["push"], np.log(std / target.numpy()), atol=0.03)
    change = np.array(found["DoG"]["change"]) - found["none"]["change"]
    np.testing.assert_allclose(change, found["DoG"]["push"], atol=0.02)
    made_up = dict(
        config=dict(sigma_max=sigmas[0].item(), sigma_min=sigmas[-1].item(), steps=len(sigmas) - 1, w=2.0),
        results=dict(
            cells=[dict(ratio=(target / source).tolist(), length=(1 / source).tolist(), directions=found)]
        ),
    )
    np.testing.assert_allclose(photos_why.forecast(made_up)[0], change, atol=0.01)
    np.testing.assert_allclose([v[0] for v in fitted(made_up, "DoG")], 1, atol=0.02)
    made_up["config"]["pictures"] = 400
    assert abs(photos_why.breadth(made_up, "none")[0]) < 0.05  # samples are as broad as the truth


def test_few_pictures_of_the_truth_are_on_average_as_broad_as_the_truth():
    x = torch.randn(2000, 4, 3, generator=torch.Generator().manual_seed(5))
    cells = [
        dict(ratio=[1.0] * 3, length=[0.0] * 3, directions=dict(none=dict(std=std.tolist())))
        for std in x.std(1)
    ]
    config = dict(sigma_max=80.0, sigma_min=1.0, steps=5, pictures=4)
    found = photos_why.breadth(dict(config=config, results=dict(cells=cells)), "none")
    assert abs(found.mean()) < 0.02


def test_a_domain_that_is_not_told_apart_is_not_drawn(record):
    cells = [
        dict(cell, odds=dict(cell["odds"], right=[0.5] * CONFIG.steps)) for cell in record["results"]["cells"]
    ]
    unknown = dict(record, results=dict(cells=cells))
    ax = plt.figure().add_subplot()
    photos_why.alignment(ax, unknown)
    assert photos_why.told_apart(unknown) == [] and not ax.lines
    cells[0]["odds"]["right"] = [0.9] * CONFIG.steps
    assert photos_why.told_apart(unknown) == ["food"]
    photos_why.alignment(ax, unknown)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), cells[0]["odds"]["truth"])
    plt.close("all")


class Halfway:
    """A fine-tune that has gone a part of the way from a guess of 0 to the truth, its null half as far."""

    null = 9

    def __init__(self, x0, went):
        self.x0, self.went = x0, went

    def denoiser(self, label):
        share = self.went / 2 if isinstance(label, int) and label == self.null else self.went
        return lambda x, sigma: share * self.x0


def test_held_out_weights_finish_the_way():
    x0 = torch.randn(3, 3, 8, 8)
    found = photos_why.terms(Halfway(x0, 0.0), Halfway(x0, 0.8), x0, torch.tensor(1.0), torch.zeros(3), x0)
    assert found["w_DoG"] == pytest.approx(1 / 0.8) and found["w_CFG"] == pytest.approx(1.5)
    assert found["domain"] == pytest.approx(found["by_class"]) and found["angle"] == pytest.approx(1)


def test_the_classifier_tells_the_domains_apart_and_more_surely_where_noise_is_low():
    config = dataclasses.replace(CONFIG, sigma_min=0.3)
    source, target = pictures(60, 4, 0), pictures(60, 5, 50)
    classifier = domain_classifier(source, target, 60, (0.3, config.sigma_max), "cpu", batch=16)
    of = lambda path: dict(none=dict(states=path))
    states = [torch.zeros(2, 3, 64, 64)] * config.steps
    found = photos_why._odds(config, classifier, pictures(20, 6, 0), pictures(20, 7, 50), of(states))
    assert found["right"][-1] > 0.9 > found["right"][0]
    assert found["truth"][-1] > 1 > -1 > found["source"][-1]


# directions


def test_along_generalized_directions_the_ratio_of_stds_is_r():
    """Gaussian source and target: in each direction found, the std within a class over the source's is r."""
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=g, dtype=torch.float64)
    source = torch.randn(4000, 6, generator=g, dtype=torch.float64) @ mix
    label = torch.arange(4000) % 2
    target = 0.3 * torch.randn(4000, 6, generator=g, dtype=torch.float64) @ mix + 5 * label[:, None]
    v, r = directions.generalized(source, target, label, rank=6)
    torch.testing.assert_close(
        directions.within(target @ v, label) / (source @ v).std(0), torch.from_numpy(r), rtol=1e-3, atol=0
    )
    assert abs(r.mean() - 0.3) < 0.02


@pytest.mark.parametrize("n", [20, 60])
def test_principal_directions_are_those_of_the_covariance(n):
    """For fewer points than dimensions, and for more; up to their signs."""
    x = torch.randn(n, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    v = directions.principal(x, rank=5)
    torch.testing.assert_close(
        (v.T @ torch.linalg.eigh(torch.cov(x.T))[1][:, -5:]).abs(), torch.eye(5, dtype=torch.float64)
    )


def test_the_record_says_what_the_pages_say():
    """Notebook 11's suspects 4 and 5, and the gallery."""
    found = records.load("photos_why", pathlib.Path(__file__).parents[1] / "figures")
    # the domain term is about twice as large, and DoG goes beyond true pictures, early in the noise
    domain, by_class = (photos_why._terms(found, "on_path", name).sum(1) for name in ("domain", "by_class"))
    assert (domain / by_class).mean() == pytest.approx(2, abs=0.3) and (domain > 1.4 * by_class).all()
    known = np.isin(found["config"]["targets"], photos_why.told_apart(found))
    odds = {
        name: photos_why.by_target(found, lambda cell: cell["odds"][name])[known]
        for name in ("truth", "none", *photos_why.GUIDED)
    }
    ends = {name: (values - odds["truth"])[:, -1] for name, values in odds.items()}
    assert known.sum() == 3 and (ends["DoG"] > 0.6).all()
    assert all(abs(ends[name].mean()) < 0.15 for name in ("none", "CFG"))
    assert ends["blurred self"].mean() < -0.4
    at_high_noise = np.abs(photos_why.levels(found) - 10).argmin()
    assert (odds["DoG"].mean(0) > 2 * odds["truth"].mean(0))[at_high_noise]
    # the law and the closed form
    law, change = (photos_why.accounted(found, name) for name in ("law", "change"))
    assert np.abs(law - change).max() < 1e-3
    narrower = photos_why.forecast(found) < 0
    moved = {name: photos_why.measured(found, name) for name in photos_why.GUIDED}
    narrowed = {name: (m[narrower] < 0).mean() for name, m in moved.items()}
    widened = {name: (m[~narrower] > 0).mean() for name, m in moved.items()}
    assert [round(share[name], 1) for share in (narrowed, widened) for name in ("DoG", "CFG")] == [
        *(0.9, 0.7),
        *(0.9, 0.9),
    ]
    assert (
        moved["CFG"][narrower].mean() > -0.05 and narrowed["blurred self"] == 1 == 1 - widened["blurred self"]
    )
    finding = c20(found)
    assert round(finding.value, 1) == 0.6 and [part for part, held in finding.parts.items() if not held] == [
        "the amount"
    ]
    assert round(fitted(found, "DoG", photos_why.pushed)[0].mean(), 2) == 0.35
    spread = {name: np.exp(student(photos_why.breadth(found, name))) for name in ("none", "DoG")}
    assert [round(end, 2) for end in spread["none"][1:]] == [1.03, 1.10]
    assert spread["DoG"][1] < 1 < spread["DoG"][2]
