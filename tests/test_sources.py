"""Experiments on points whose seeds each have a source of their own: nothing is taken from another's."""

import math

import numpy as np
import pytest
import torch

from dgtoy import Ensemble
from dgtoy.course.claims.exact import c8
from dgtoy.course.experiments import forgetting, gap, plane
from dgtoy.course.lab import PointSetting, replace

OWN = PointSetting(seeds=2, first=3, layout=None, samples=8, width=8)


@pytest.mark.parametrize("seed", OWN.each_seed())
def test_the_closed_form_is_asked_for_the_seed_s_own_source(seed):
    alone = replace(OWN, layout=seed)
    assert gap.predicted(OWN, 1.5, seed) == gap.predicted(alone, 1.5) != gap.predicted(OWN, 1.5)


def test_a_null_branch_is_compared_with_the_seed_s_own_source():
    nets, measured = Ensemble.of(OWN.each_seed(), num_classes=10, width=8), (64, (0.1, 1.0))
    found = forgetting.on_sources(nets, OWN, *measured)
    for k, seed in enumerate(OWN.each_seed()):
        together = replace(OWN, layout=seed)
        same = forgetting.excess(nets.denoiser(nets.null), together.world().source, 2, *measured)
        torch.testing.assert_close(found[k], same[k])


def test_the_width_of_several_sources_is_their_geometric_mean():
    sources = [OWN.world(seed=seed).source for seed in OWN.each_seed()]
    widths = [plane._std([source]) for source in sources]
    assert plane._std(sources) == pytest.approx(math.sqrt(np.prod(widths))) and widths[0] != widths[1]


def test_c8_counts_each_source_by_what_the_formula_says_of_it():
    """The formula is right about both sources, which a mean over them would not be."""
    place = dict(gap=1.0, breadth=1.0, w=1.5, predicted=[0.0, 0.5])
    rates = dict(none=[0.2, 0.2], DoG=[0.1, 0.3])
    found = [place | dict(method=method, out_of_domain=rate) for method, rate in rates.items()]
    regimes = [dict(gap=1.0, breadth=1.0, regime="unfinished")]
    setting = dict(domain="moons", layout=None)
    record = dict(config=dict(setting=setting, gaps=[1.0]), seeds=[0, 1])
    finding = c8(record | dict(name="gap", results=dict(rows=found, regimes=regimes)))
    assert finding.value == 1 and "unfinished 1 of 1 places" in finding.note
