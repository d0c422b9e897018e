"""The field of methods: each is what its name says, and the rule of C28 goes both ways."""

import numpy as np
import pytest
import torch

from dgtoy import Recipe, blurred, guided, relatives
from dgtoy.course import lab, rivals
from dgtoy.course.claims.relatives import SELF, c28
from dgtoy.course.experiments import relatives as study
from dgtoy.course.lab import PointSetting
from dgtoy.course.records import rows

SETTING = PointSetting(
    seeds=2,
    layout=None,
    size=8,
    width=8,
    samples=16,
    steps=4,
    pretrain=Recipe(steps=4, batch=8),
    finetune=Recipe(steps=20, batch=8, lr=1e-2),
)
X, SIGMA, W = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5), 1.7
close = torch.testing.assert_close


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGTOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        pre, ft, _ = lab.prepared(SETTING)
        weaker = lab.weaker_self(SETTING)
        yield rivals.Models(ft, pre, weaker, study.half_way(ft, pre), SETTING.sigmas(), axes=(-1,))


def test_every_method_is_the_combination_that_its_name_says(models):
    main, null, source = models.main(1), models.null, models.source
    first = SETTING.sigmas()[1].item()
    expected = {
        "CFG": guided(main, null, W),
        "DoG": guided(main, source, W),
        "autoguidance": guided(main, models.weaker.denoiser(1), W),
        "blurred self": guided(main, blurred(main, 0.4), W),
        "DoG on an interval": guided(main, source, W),  # X lies inside
        "CFG, APG": relatives.apg(main, null, W, axes=(-1,)),  # the first of a run remembers nothing
        "DoG, APG": relatives.apg(main, source, W, axes=(-1,)),
        "CFG-Zero*": relatives.cfg_zero_star(main, null, W, first, axes=(-1,)),
        "DoG, Zero*": relatives.cfg_zero_star(main, source, W, first, axes=(-1,)),
    }
    made = {name: rivals.method(name, models, W)(1)(X, SIGMA) for name in expected}
    for name, D in expected.items():
        close(made[name], D(X, SIGMA))
    assert (
        len({round(float(value.sum()), 5) for value in made.values()}) == len(made) - 1
    )  # all but one differ


def test_the_mean_weight_of_cfg_plus_plus_is_the_w_that_was_asked(models):
    w = models.renoised(W)
    assert np.mean([w(sigma) for sigma in SETTING.sigmas()[:-1]]) == pytest.approx(W)


@pytest.mark.parametrize("share, end", ((0.0, "source"), (1.0, "null")))
def test_half_way_networks_lead_from_the_guide_of_dog_to_that_of_cfg(models, share, end):
    between = study.half_way(models.finetuned, models.pretrained, share)
    null = between.denoiser(between.null)(X, SIGMA)
    close(null, getattr(models, end)(X, SIGMA), rtol=0, atol=1e-6)  # hardly trained, they differ by 1e-5


def made(best):
    """A record in which a method leaves half of what all others leave."""
    where = dict(world="moons", stage="finished")
    costs = dict(energy=[0.02] * 4, thickness=[1.0] * 4)
    rows = [where | dict(method="none", w=1.0, out_of_domain=[0.1, 0.12, 0.1, 0.11], energy=[0.01] * 4)]
    rows[0]["thickness"] = [1.1] * 4
    for name in study.OF_POINTS:
        left = np.array([0.04, 0.05, 0.04, 0.05]) / (2 if name == best else 1)
        rows.append(where | dict(method=name, w=1.5, out_of_domain=left.tolist()) | costs)
    setting = dict(domain="moons", layout=None, pretrain={}, steps=32)
    config = dict(setting=setting, stages=[["finished", 1, 1]], worlds=[["moons"]])
    return dict(name="relatives", seeds=[0, 1, 2, 3], config=config, results=dict(rows=rows))


def test_the_rule_goes_the_way_of_its_record():
    won, lost = c28(made(SELF)), c28(made("DoG, APG"))
    assert won.verdict == "holds" and won.value > 1
    assert lost.verdict == "fails" and lost.value < 1
    assert "4 trainings, each on a source of its own" in won.interval and "32 steps" in won.note


def test_thinner_strokes_are_a_cost():
    record = made(SELF)
    for row in rows(record, method=SELF):
        row["thickness"] = [0.2] * 4
    assert c28(record).verdict == "fails"
