"""Closed forms beyond Gaussians: the exact densities, the problems, the law of beta, and the rule of C31."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from dgtoy.course.claims.closed import c31
from dgtoy.course.experiments import closed

CONFIG = dataclasses.replace(closed.Config(), points=128, dims=4, steps=150)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 5.0])
def test_the_denoiser_of_boxes_is_the_mean_of_the_posterior(sigma):
    """In one dimension, by quadrature, from inside both boxes to far outside of them."""
    means, half = (-1.0, 2.0), 0.5
    boxes = closed.Boxes(torch.tensor(means).double()[:, None], torch.tensor([half]).double())
    for x in (-3.0, -1.4, 0.4, 2.0, 4.0):
        weigh = lambda power, mean: quad(
            lambda x0: x0**power * norm.pdf((x - x0) / sigma, scale=1) * math.exp(nearest),
            mean - half,
            mean + half,
            points=[np.clip(x, mean - half, mean + half)],
            epsabs=0,
            limit=200,
        )[0]
        away = min(max(abs(x - m) - half, 0) for m in means)
        nearest = (away / sigma) ** 2 / 2  # keeps the integrand within floating point
        if nearest > 600:
            continue
        expected = sum(weigh(1, m) for m in means) / sum(weigh(0, m) for m in means)
        found = boxes.denoise(torch.tensor([[x]]).double(), torch.tensor(sigma).double())
        assert found.item() == pytest.approx(expected, rel=1e-6)


def test_far_from_a_box_its_denoiser_is_finite_and_at_the_wall():
    box = closed.Boxes(torch.zeros(1, 2).double(), torch.ones(2).double())
    found = box.denoise(torch.tensor([[300.0, -300.0]]).double(), torch.tensor(1.0).double())
    np.testing.assert_allclose(found[0], [1, -1], atol=0.01)


@pytest.mark.parametrize("shape", closed.SHAPES)
def test_without_guidance_samples_of_every_shape_have_the_std_of_the_problem(shape):
    config = dataclasses.replace(CONFIG, points=2048, steps=60)
    std, *_ = closed.problem(config, shape, 3)
    none = next(closed.moved(config, shape, 3))
    np.testing.assert_allclose(none["std"], std, rtol=0.06)


@pytest.mark.parametrize("shape", closed.SHAPES)
def test_the_law_gives_the_width_of_every_direction_under_every_guide(shape):
    for row in closed.moved(CONFIG, shape, 5):
        np.testing.assert_allclose(row["law"], row["change"], atol=0.03)


def test_a_gaussian_target_follows_the_closed_form_where_its_source_is_broader_and_where_it_is_narrower():
    of_dog = next(r for r in closed.moved(CONFIG, "Gaussian", 6) if r["method"] == "DoG")
    assert min(of_dog["foretold"]) < 0 < max(of_dog["foretold"])
    np.testing.assert_allclose(of_dog["made"], of_dog["foretold"], atol=0.02)
    np.testing.assert_allclose(of_dog["push"], of_dog["foretold"], atol=0.02)


def judged(share, spoilt=()):
    """A record in which DoG makes a share of what is foretold, and its rivals nothing; by shape."""
    g, rows = np.random.default_rng(0), []
    for shape in closed.SHAPES:
        for seed in range(6):
            foretold = g.normal(size=8)
            dog = foretold * (1.0 if shape == "Gaussian" else share)
            for method in closed.GUIDES:
                made = g.normal(size=8) if shape in spoilt else dog if method == "DoG" else np.zeros(8)
                both = dict(by_DoG=foretold.tolist(), foretold=foretold.tolist(), made=made.tolist())
                rows.append(dict(shape=shape, seed=seed, method=method, law=[0.0], change=[0.0], **both))
    config = dict(w=2.0, seeds=6)
    return dict(name="closed", seeds=list(range(6)), config=config, results=dict(rows=rows))


def test_the_rule_tells_amount_from_order():
    assert c31(judged(1.0)).verdict == "holds"
    part = c31(judged(0.3))
    assert [name for name, held in part.parts.items() if not held] == [
        f"the amount: {shape}" for shape in ("uniform", "clusters", "two scales")
    ]
    assert part.value == pytest.approx(0.3)
    lost = c31(judged(1.0, spoilt=("clusters",))).parts
    assert not lost["the order: clusters"] and not lost["DoG alone: clusters"] and lost["the order: uniform"]
