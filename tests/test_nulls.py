"""The factorial of guides: exact members seed by seed, regimes, and rules that can go both ways."""

import json
import pathlib

import numpy as np
import pytest
import torch

from dgtoy import Recipe
from dgtoy.course import lab, records
from dgtoy.course.claims import nulls as rules
from dgtoy.course.experiments import nulls
from dgtoy.course.experiments.calibration import regime
from dgtoy.course.lab import PointSetting
from dgtoy.course.worlds import domains

OWN = PointSetting(
    seeds=3,
    layout=None,
    size=8,
    width=8,
    samples=64,
    steps=16,
    pretrain=Recipe(steps=4, batch=8),
    finetune=Recipe(steps=4, batch=8),
)
X = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGTOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_with_no_layout_each_seed_has_the_source_of_its_number():
    source = OWN.source()
    for k, mixture in enumerate(source.mixtures):
        alone = domains.make(layout=k).source
        assert torch.equal(mixture.means, alone.means)
        torch.testing.assert_close(source.denoiser(source.null)(X, 0.5)[k], alone.denoise(X[k], 0.5))
    assert len({m.means[0, 0].item() for m in source.mixtures}) == 3
    assert torch.equal(OWN.world(seed=1).target.means, OWN.world(seed=2).target.means)


def test_a_network_on_its_own_source_does_not_depend_on_the_other_seeds():
    alone = PointSetting(seeds=1, first=2, layout=2, width=8, pretrain=OWN.pretrain)
    together, single = lab.pretrained(OWN), lab.pretrained(alone)
    for name, p in single.params.items():
        torch.testing.assert_close(together.params[name][2], p[0], rtol=1e-4, atol=1e-6)


def test_exact_guides_are_the_exact_denoisers_and_blurred_ones_those_of_wider_densities():
    pre, ft, judge = lab.prepared(OWN)
    guide = lambda name: nulls.named(name, OWN, ft.denoiser, ft, pre, "cpu")(0)(X, torch.tensor(0.3))
    target = OWN.world().target
    close = torch.testing.assert_close
    close(guide("exact null"), target.denoise(X, 0.3))
    close(guide("exact source"), OWN.source().denoiser(10)(X, 0.3))
    close(guide("own null"), ft.denoiser(ft.null)(X, torch.tensor(0.3)))
    close(guide("learned source"), pre.denoiser(pre.null)(X, torch.tensor(0.3)))
    close(guide("Gaussian, std 2"), X * 4 / (4 + 0.3**2))
    wide = torch.eye(2) * (0.4**2 + domains.STD**2)
    blurred = lab.domains.LabelledMixture(target.weights, target.means, wide.expand(32, 2, 2), target.labels)
    close(guide("exact null, b = 0.4"), blurred.denoise(X, 0.3), rtol=1e-4, atol=1e-5)


LEVELS = [2.0, 0.5, 0.1]


@pytest.mark.parametrize(
    "dog, cfg, name",
    (
        ([1.5, 1.0, 1.0], [1.0, 1.0, 1.0], "hardly begun"),
        ([1.0, 1.0, 1.0], [2.0, 1.2, 1.0], "unfinished"),
        ([1.0, 1.0, 1.3], [1.0, 1.0, 1.0], "unfinished"),
        ([1.05, 1.0, 0.95], [1.0, 1.09, 1.0], "finished"),
        ([1.0, 0.9, 0.5], [1.0, 1.0, 0.6], "overfitted"),
    ),
)
def test_the_regime_is_told_by_held_out_weights(dog, cfg, name):
    by_seed = lambda w: [[[v + shift] for v in w] for shift in (-0.3, 0.3)]  # the mean counts
    assert regime(LEVELS, dict(DoG=by_seed(dog), CFG=by_seed(cfg))) == name


RIVALS = ("own null", "own null, b = 0.4", "exact null", "exact source", "learned source", "weaker self")
RIVALS += (nulls.BETTER, rules.WIDE, rules.SELF)


def made(better):
    """A record of two places in which the guide `better` leaves half of what the others leave."""
    places = [dict(world="moons", stage=s) for s in ("detail missing", "finished")]
    found = []
    for place in places:
        place = place | dict(main="learned")
        found.append(
            place
            | dict(guide="none", w=1.0, out_of_domain=[0.1, 0.12, 0.1, 0.11])
            | dict(energy=[0.01] * 4, thickness=[1.1] * 4)
        )
        for guide in RIVALS:
            left = np.array([0.04, 0.05, 0.04, 0.05]) / (2 if guide == better else 1)
            costs = dict(energy=[0.02] * 4, thickness=[1.0] * 4)
            found.append(place | dict(guide=guide, w=1.5, out_of_domain=left.tolist()) | costs)
    config = dict(
        setting=dict(domain="moons", layout=None, pretrain={}),
        stages=[["finished", 1, 1]],
        worlds=[["moons"]],
        wide=["moons"],
    )
    return dict(name="nulls", seeds=[0, 1, 2, 3], config=config, results=dict(rows=found, fits=places))


HEROES = (
    (rules.c21, "exact null", "own null"),
    (rules.c22, "learned source", rules.WIDE),
    (rules.c23, rules.SELF, "weaker self"),
)


@pytest.mark.parametrize("rule, hero, villain", HEROES)
def test_a_rule_goes_the_way_of_its_record(rule, hero, villain):
    won, lost = rule(made(hero)), rule(made(villain))
    assert won.verdict in ("holds", "holds in part") and any(won.parts.values())
    assert won.value < 1 <= lost.value
    assert "4 trainings, each on a source of its own" in won.interval


RECORD = pathlib.Path(__file__).resolve().parents[1] / "figures" / "nulls.json"


@pytest.mark.parametrize("rule, hero, _", HEROES)
def test_thinner_strokes_are_a_cost(rule, hero, _):
    record = made(hero)
    for row in records.rows(record, guide=hero):
        row["thickness"] = [0.2] * 4
    assert rule(record).verdict == "fails"


def test_the_figure_s_title_is_what_its_panels_show():
    record, ahead = json.loads(RECORD.read_text()), {}
    for place in rules.places(record):
        if place["world"] == "moons":
            assert rules.against(record, "exact null", "own null", **place)[0] > 1
            ahead[place["stage"]] = rules.against(record, "learned source", rules.WIDE, **place)
    assert ahead.pop("hardly begun")[2] < 1 and len(ahead) == 3
    assert all(left >= 1 for left, *_ in ahead.values())  # the source is no better than the Gaussian
    claim = nulls.figure(record)._suptitle.get_text()
    assert "unless training has hardly begun" in claim and claim.endswith("at least as well as the source")


def test_the_regimes_that_captions_name_are_those_that_held_out_weights_tell():
    record = json.loads(RECORD.read_text())
    recipes = {name: (steps, lr) for name, steps, lr in record["config"]["stages"]}
    found = {
        recipes[f["stage"]]: f["regime"]
        for f in record["results"]["fits"]
        if f["world"] in ("moons", "spirals")
    }
    for recipe, words in records.REGIMES.items():
        assert words.split(" (")[0] == found[recipe]
