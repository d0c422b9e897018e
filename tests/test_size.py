"""The experiment on the number of target points: what sees copies, and where each fine-tune stops."""

import numpy as np
import pytest
import torch

from dgtoy import Points
from dgtoy.course.claims.points import c11
from dgtoy.course.experiments import size


def draw(*shape):
    return torch.randn(*shape, 2, generator=torch.Generator().manual_seed(len(shape)))


def test_copies_lie_at_distance_0_from_the_training_points_and_fresh_samples_at_1():
    points = draw(3, 8)  # 3 seeds, two classes of 4 points
    data = Points(points, torch.arange(8).repeat(3, 1) // 4)
    truth = draw(2, 1, 4000)[:, 0]
    copies = points.view(3, 2, 4, 2).transpose(0, 1)  # (classes, S, n, 2)
    assert size.nearest(copies, data, truth) == [0, 0, 0]
    fresh = truth[:, None, 1::2].expand(2, 3, -1, 2)
    assert size.nearest(fresh, data, truth) == pytest.approx([1, 1, 1], abs=0.1)
    swapped = size.nearest(copies.flip(0), data, truth)  # the points of the other class are no copies
    assert min(swapped) > 0.3


def record(removed, nearest=1.0, energy=(0.1, 0.1)):
    """Three sizes; DoG at w = 2 removes a share of the outliers and changes the energy distance."""
    rows = []
    for n, share in zip((8, 16, 32), removed, strict=True):
        common = dict(size=n, steps=100)
        spread = np.array([0.99, 1.0, 1.01, 1.0])
        none = dict(out_of_domain=[0.2] * 4, energy=[energy[0]] * 4, nearest=[1.0] * 4)
        dog = dict(out_of_domain=list(0.2 * (1 - share * spread)), energy=list(energy[1] * spread))
        rows.append(common | dict(method="none", w=1.0) | none)
        rows.append(common | dict(method="DoG", w=2.0, nearest=list(nearest * spread)) | dog)
    return dict(config=dict(sizes=[8, 16, 32], stages=[100]), seeds=[0, 1, 2, 3], results=dict(rows=rows))


def test_the_rule_asks_for_a_gain_that_grows_as_data_shrink():
    grows, falls = c11(record((0.9, 0.6, 0.3))), c11(record((0.3, 0.6, 0.9)))
    assert grows.parts["more outliers removed"] and not falls.parts["more outliers removed"]
    assert grows.value == pytest.approx(0.3, abs=0.02) and falls.value == pytest.approx(-0.3, abs=0.02)


def test_outliers_bought_with_copies_are_seen():
    part = "less than a tenth nearer to the training points at 8 of them"
    assert c11(record((0.9, 0.6, 0.3))).parts[part]
    assert not c11(record((0.9, 0.6, 0.3), nearest=0.5)).parts[part]


def test_each_size_is_judged_where_held_out_error_is_least():
    config = size.Config(
        size.replace(size.Config().setting, seeds=2, width=8, samples=24, steps=3, pretrain=dict(steps=8)),
        sizes=(4,),
        stages=(1, 300),
        weights=(1.5,),
        levels=(0.5,),
    )
    made = size.run(config)["results"]
    best = min(made["held_out"], key=lambda h: np.mean(h["error"]))
    assert {r["steps"] for r in made["rows"]} == {best["steps"]} and len(made["held_out"]) == 2
