"""Held-out points taken from training: the split, weights chosen on samples, and the rules of C29 and C30."""

import types

import numpy as np
import pytest
import torch
from helpers import gaussian

from dgtoy import guided, karras, metrics
from dgtoy.course import claims
from dgtoy.course.experiments import budget, null_branch
from dgtoy.course.lab import PointSetting
from dgtoy.train import Points

WIDE, NARROW = gaussian(0.0, 3.0), gaussian(1.0, 0.5)


def test_what_trains_and_what_calibrates_make_up_the_data_and_do_not_overlap():
    setting = PointSetting(seeds=2, size=8)
    whole, train = (setting.world().data(n, range(2)) for n in (8, 6))
    held_out = budget.remaining(setting, 6)
    for c in range(2):
        of_class = lambda points: points.x0[points.label == c].reshape(2, -1, 2)
        assert torch.equal(torch.cat([of_class(train), of_class(held_out)], 1), of_class(whole))


@pytest.mark.parametrize("stretches", (1, 4))
def test_weights_chosen_on_samples_complete_a_fine_tune_gone_half_way(stretches):
    """With D_ft = D_pre + (D_target - D_pre) / 2 the weight 2 is exact, and the samples' law tells."""
    half = guided(NARROW.denoise, WIDE.denoise, 0.5)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 400, 1, generator=generator)
    judge = types.SimpleNamespace(
        setting=types.SimpleNamespace(sigmas=lambda: karras(24, 0.01, 20.0)),
        parts=[NARROW],
        device="cpu",
        start=lambda c: start,
    )
    held_out = Points(NARROW.sample(800, generator=generator).float().reshape(2, 400, 1), torch.zeros(2, 400))
    method = lambda w: lambda c: guided(half, WIDE.denoise, w)
    w = budget.on_trajectories(method, judge, held_out, (1.0, 2.0, 4.0), stretches)
    assert w(torch.tensor(0.3)).tolist() == [2.0, 2.0]  # where the law is decided
    assert {v for sigma in (20.0, 1.0, 0.05) for v in w(sigma).tolist()} <= {1.0, 2.0, 4.0}


def test_energy_distance_takes_a_truth_for_each_seed():
    x, y = (torch.randn(3, 40, 2, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    each = torch.stack([metrics.energy_distance(a, b) for a, b in zip(x, y)])
    torch.testing.assert_close(metrics.energy_distance(x, y), each)


def completed(left, finished):
    """A record in which calibration leaves so much of the energy distance: of unfinished fine-tunes, of a
    finished one."""
    rows, spread = [], 1 + 0.01 * np.arange(4)
    for stage in budget.STAGES:
        share = finished if stage == "finished" else left
        names = ("none", budget.FEWER, *budget.LINES, "plane")
        names += tuple(m + way for m in budget.LINES for way in (budget.SEARCHED, budget.GREEDY))
        for name in names:
            alone = name in ("none", budget.FEWER)
            energy = (0.5 if alone else 0.5 * share) * spread
            w = 1.0 if alone else "calibrated"
            rows.append(dict(stage=stage, method=name, w=w, energy=energy.tolist()))
    return dict(name="budget", seeds=[0, 1, 2, 3], config=dict(setting={}), results=dict(rows=rows))


@pytest.mark.parametrize(
    ("left", "finished", "verdict", "words"),
    [
        (0.5, 1.0, "holds", "pays where the fine-tune is hardly begun or class unfinished or overfitted"),
        (0.5, 1.5, "holds in part", "costs where it is finished"),
        (1.3, 1.0, "holds in part", "pays where the fine-tune is none of these"),
    ],
)
def test_c29_says_when_held_out_points_pay(left, finished, verdict, words):
    found = claims.c29(completed(left, finished))
    assert found.verdict == verdict and words in found.note


def null_record(**left):
    """A record in which each change leaves so much of the null branch's error."""
    names = list(null_branch.changes(null_branch.Config().setting))
    rows = [
        dict(
            change=n, branch=null_branch.NULL, excess=(left.get(n, 1.0) * (1 + 0.01 * np.arange(4))).tolist()
        )
        for n in names
    ]
    return dict(name="null_branch", seeds=[0, 1, 2, 3], config=dict(setting={}), results=dict(rows=rows))


def test_c30_tells_training_from_capacity_and_data():
    training = {null_branch.SHARE: 0.3, "3 times the steps": 0.5}
    assert claims.c30(null_record(**training)).verdict == "holds"
    assert claims.c30(null_record(**training, **{"twice the width": 0.4})).verdict == "holds in part"
    assert claims.c30(null_record(**{"twice the width": 0.4, "16 times the data": 0.4})).verdict == "fails"


def test_one_factor_changes_at_a_time():
    base, *others = null_branch.changes(PointSetting()).values()
    for other in others:
        differ = [f for f in ("size", "width", "finetune") if getattr(other, f) != getattr(base, f)]
        assert len(differ) == 1
