"""The blurred self's blur: the imperfect model that the study uses, its measures, and the rule of C32."""

import dataclasses

import numpy as np
import pytest
import torch

from dgtoy.course.claims.blur import OUTSIDE, c32
from dgtoy.course.experiments import blur
from dgtoy.course.worlds import domains

CONFIG = dataclasses.replace(blur.Config(), seeds=2, samples=64, steps=12)


def test_a_model_with_strays_is_the_target_and_a_blurred_share_of_it():
    target = domains.make("moons").target
    model = blur.with_strays(target, 0.1, 0.3)
    x, around = 2 * torch.randn(50, 2), 0.3
    for label in (0, 1, target.null):
        p, q = target.given(label), model.given(label)
        expected = torch.logaddexp(np.log(0.9) + p.logp(x), np.log(0.1) + p.logp(x, around))
        torch.testing.assert_close(q.logp(x), expected)


def test_strokes_are_widened_and_nothing_else():
    one, two = (blur._setting(CONFIG, ("moons", 0.5, 1.0), stroke).world() for stroke in (1.0, 2.0))
    torch.testing.assert_close(two.target.covs, 4 * one.target.covs)
    torch.testing.assert_close(two.target.means, one.target.means)
    torch.testing.assert_close(two.source.covs, one.source.covs)


def test_shift_is_how_far_means_lie_outwards_in_stds_of_a_class():
    target = domains.make("moons", gap=1.0).target
    parts = [target.given(0), target.given(1)]
    truth = torch.stack([part.sample(20_000).expand(2, -1, -1) for part in parts])  # (classes, S, n, 2)
    np.testing.assert_allclose(blur.shift(truth, parts), 0, atol=0.03)
    away = torch.tensor([0.5, 0.0])  # the target lies along the first axis
    stds = [truth[c, 0].var(0).mean().sqrt() for c in (0, 1)]
    np.testing.assert_allclose(blur.shift(truth + away, parts), 0.5 / np.mean(stds), atol=0.05)


def test_held_out_points_gain_nothing_from_the_blur_of_an_exact_model():
    setting = blur._setting(CONFIG, ("moons", 0.0, 1.0), 1.0)
    judge = blur.PointJudge(setting)
    config = dataclasses.replace(CONFIG, held_out=4000)
    gain = lambda share: np.mean(
        blur._gains(config, judge, blur.with_strays(judge.target, share, 0.24), 0.32, 0.08)
    )
    assert gain(0.3) > 5 * gain(1e-9) >= 0


def made_up(best, chosen, own_shift):
    """A record in which the blur `best` leaves fewest outside, and held-out points choose `chosen`."""
    wide, found, fits = blur.Config.full().widths, [], []
    seeds = np.linspace(0.99, 1.01, 4)

    def row(world, method, b, w, outside, shift=0.0):
        same = dict(world=world, method=method, b=b, w=w, thickness=[1.0] * 4, shift=(shift * seeds).tolist())
        found.append(same | dict(out_of_domain=(outside * seeds).tolist(), energy=[0.0] * 4))

    for world in (*blur.INSIDE, *OUTSIDE):
        row(world, "none", 0.0, 1.0, 0.08)
        row(world, "DoG", 0.0, 2.0, 0.04, shift=1.0)
        for b in wide if world in blur.INSIDE else (blur.KEPT,):
            row(world, "blurred self", b, 2.0, 0.01 if b == best else 0.03, own_shift)
            fits.append(dict(world=world, b=b, gain=[float(b == chosen)] * 4))
    results = dict(rows=found, fits=fits)
    return dict(name="blur", seeds=[0, 1, 2, 3], config=dict(widths=wide), results=results)


@pytest.mark.parametrize(
    ("best", "chosen", "own_shift", "fails"),
    [
        (4.0, 4.0, 0.0, None),
        (32.0, 32.0, 0.0, "a few strokes"),
        (4.0, 32.0, 0.0, "held-out"),
        (4.0, 4.0, 0.5, "the blurred self"),
    ],
)
def test_the_rule_tells_what_fails(best, chosen, own_shift, fails):
    found = c32(made_up(best, chosen, own_shift))
    failed = [part for part, held in found.parts.items() if not held]
    assert bool(failed) == bool(fails) and all(part.startswith(fails) for part in failed)
    assert found.value == pytest.approx(best)
