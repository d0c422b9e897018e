"""Each experiment at toy size, the shared machinery, and the claims that the committed records make."""

import copy
import dataclasses
import json
import math
import pathlib
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import refuses, shaken, started

from dgtoy import Recipe, shipped
from dgtoy.course import claims, experiments, lab, records
from dgtoy.course.claims import exact, finding, report
from dgtoy.course.claims import points as rules
from dgtoy.course.experiments import NAMES, blur, budget, guides, nulls, posters
from dgtoy.course.lab import PointJudge, PointSetting, replace
from dgtoy.course.pictures import PictureJudge, PictureSetting
from dgtoy.dit import EDM, DiT, Flow

FIGURES = pathlib.Path(__file__).resolve().parents[1] / "figures"
RECORDS = sorted(p for p in FIGURES.glob("*.json") if p.stem in NAMES)
SETTINGS = {name: getattr(experiments.config(name, "quick"), "setting", None) for name in NAMES}
POINTS = ("exact", *(name for name, s in SETTINGS.items() if isinstance(s, PointSetting) and name != "idea"))
REPLICATED = [name for name in NAMES if hasattr(experiments.get(name).Config, "replica")]
PROVENANCE = {"device", "python", "torch", "seconds", "source", "commit", "clean"}
TINY = PointSetting(
    seeds=4,
    size=8,
    width=8,
    pretrain=Recipe(steps=8, batch=8),
    finetune=Recipe(steps=8, batch=8),
    samples=24,
    steps=3,
)
TINY_PICTURES = PictureSetting(
    seeds=2, size=3, samples=16, truth=80, steps=2, finetune=Recipe(steps=10, batch=2, P_mean=-1.0, P_std=1.4)
)
STAGES = (
    ("100 steps", 8, 2, 1e-3),
    ("300 steps", 8, 4, 1e-3),
    ("finished", 8, 6, 1e-3),
    ("overfitted", 4, 8, 1e-3),
)
SMALL = {  # what else makes an experiment small
    "exact": dict(seeds=2, points=16, steps=8),
    "closed": dict(points=16, dims=4, steps=6),
    "posters": dict(count=1, steps=1, crowd=(14, 1), prices=(1.5,)),
    "calibration": dict(stages=STAGES, weights=(1.5,), held_out=16, levels=(1.0, 0.1)),
    "budget": dict(
        stages=[(name, 8 if name != "overfitted" else 4, 4, 1e-3) for name in budget.STAGES],
        weights=(1.5,),
        draws=2,
        candidates=(1.0, 1.5),
        stretches=2,
        fresh=16,
        levels=(1.0, 0.1),
    ),
    "null_branch": dict(fresh=16),
    "blur": dict(samples=8, steps=2, weights=(2.0,), held_out=8, levels=(1.0,)),
    "guides": dict(
        setting=replace(TINY, layout=None), stages=(("finished", 8, 1e-3), ("hardly begun", 4, 1e-3))
    ),
    "gap": dict(setting=replace(TINY, layout=None), gaps=(0.0, 1.0), held_out=16, levels=(1.0, 0.1)),
    "forgetting": dict(setting=replace(TINY, layout=None), sizes=(4, 8), fresh=16, held_out=16),
    "size": dict(sizes=(4, 8), stages=(4, 8), weights=(1.5,)),
    "steps": dict(samplers=("heun", "ancestral"), steps=(2, 3)),
    "nulls": dict(
        setting=replace(TINY, layout=None),
        stages=(("finished", 4, 1e-3),),
        weights=(1.5,),
        held_out=16,
        levels=(1.0, 0.1),
    ),
    "relatives": dict(
        setting=replace(TINY, layout=None),
        stages=(("class unfinished", 2, 1e-3), ("finished", 4, 1e-3)),
        weights=(1.5,),
        held_out=16,
        levels=(1.0, 0.3, 0.1),
        choice=(1.0, 2.0),
    ),
    "plane": dict(setting=replace(TINY, layout=None), a=(1.0, 1.25, 1.5), b=(1.0, 1.25, 1.5)),
    "transfer": dict(longer=(("moons", 9),), weights=(1.25, 1.5), held_out=16, levels=(1.0, 0.1)),
    "images": dict(grid=((10, 3),), stages=(5, 10)),
    "images_gap": dict(gaps=(0.0, 1.5)),
}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory, code_read_once):
    """Networks trained here stay here, and figures are drawn coarsely."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGTOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(records, "WIDTH", 480)
        yield


@pytest.fixture(autouse=True, scope="module")
def small_nets():
    """Small networks in the place of the shipped DiTs: tested here is the record, not the pictures."""
    small, load = dict(hidden_size=24, depth=1, num_heads=2, learn_sigma=False), shipped.load
    nets = {
        "glyphs": EDM(shaken(DiT(32, 8, 3, num_classes=62, **small), 1)),
        "photos64": Flow(shaken(DiT(64, 16, 3, num_classes=17, flow=True, **small), 1)),
    }

    def loaded(name, *options):
        known = nets.get(name.partition("-")[0])
        return known.clone() if known else load(name, *options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipped, "load", loaded)
        yield


def tiny(name):
    """The experiment's module and its quick configuration at toy size."""
    sizes = {PointSetting: TINY, PictureSetting: TINY_PICTURES}
    setting = dict(setting=sizes[type(SETTINGS[name])]) if SETTINGS[name] else {}
    config = dataclasses.replace(experiments.config(name, "quick"), **(setting | SMALL.get(name, {})))
    return experiments.get(name), config


def alike(one, other):
    """Equal down to every number, but for the last digits of a float."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == (pytest.approx(other, rel=1e-9) if isinstance(other, float) else other)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in experiments.PHOTOGRAPHS])
def test_an_experiment_makes_a_record_that_draws_judges_and_repeats(name, tmp_path):
    module, config = tiny(name)
    record = module.run(config)
    assert record["name"] == name and record["config"] == json.loads(json.dumps(dataclasses.asdict(config)))
    assert set(record["provenance"]) == PROVENANCE and record["intervals"] == records.INTERVALS
    assert alike(module.run(config)["results"], record["results"])  # the second time from the cached networks
    path = records.save(record, module.figure(record), tmp_path)
    plt.close("all")
    assert records.load(name, tmp_path) == record and sorted(p.name for p in tmp_path.iterdir()) == [
        f"{name}.json",
        f"{name}.png",
    ]
    for claim in claims.CLAIMS:
        if claim.experiment == name:
            assert claim.rule(records.load(name, tmp_path)).verdict in ("holds", "holds in part", "fails")
    assert path.suffix == ".json"


@pytest.mark.parametrize("name", NAMES)
def test_presets_have_enough_seeds(name):
    seeds = lambda preset: problem(experiments.config(name, preset)).seeds
    few = dict(
        idea=(8, 8),
        blur=(4, 2),
        closed=(12, 2),
        nulls=(8, 8),
        budget=(4, 4),
        null_branch=(4, 4),
        relatives=(8, 8),
        photos=(4, 2),
        photos_guides=(4, 2),
        photos_large=(4, 2),
        photos_length=(4, 2),
        photos_recipes=(4, 2),
        photos_plane=(4, 2),
        photos_relatives=(4, 2),
        photos_stranger=(4, 2),
        photos_why=(1, 1),
        posters=(1, 1),
    )
    few |= dict.fromkeys(("transfer", "guides", "dropout", "plane", "calibration", "forgetting"), (16, 8))
    few |= dict(size=(8, 8), steps=(8, 8), gap=(8, 8))  # like the line before, each on a source of its own
    full, quick = few.get(name) or ((64, 8) if name in POINTS else (6, 2))
    assert seeds("full") >= full and seeds("quick") >= quick


def problem(config):
    return getattr(config, "setting", config)


def sources(setting):
    """The layouts of the sources that a setting of points draws."""
    return set(setting.each_seed()) if setting.layout is None else {setting.layout}


@pytest.mark.parametrize("name", REPLICATED)
def test_a_replica_shares_no_seed_or_no_source_with_the_full_run(name):
    full, again = (problem(experiments.config(name, preset)) for preset in ("full", "replica"))
    if name in POINTS:
        assert not sources(full) & sources(again)
    else:
        assert again.first >= full.first + full.seeds


def test_an_experiment_or_preset_that_is_not_there_is_refused():
    with refuses("name is 'alchemy'", "expected one of exact"):
        experiments.get("alchemy")
    with refuses("preset is replica", "exact"):
        experiments.config("exact", "replica")


@pytest.mark.parametrize("name", ["posters", "photos_why"])
def test_where_noise_is_drawn_once_no_record_can_say_more_seeds(name):
    assert experiments.config(name, "full").seeds == 1
    with pytest.raises(TypeError, match="seeds"):
        experiments.get(name).Config(seeds=2)


def test_a_seed_s_networks_and_scores_do_not_depend_on_the_number_of_seeds():
    one = replace(TINY, seeds=2)
    few, many = lab.finetuned(one), lab.finetuned(TINY)
    for name, p in few.params.items():
        torch.testing.assert_close(p.detach(), many.params[name].detach()[:2], rtol=1e-4, atol=1e-5)
    assert torch.equal(PointJudge(one).start(1), PointJudge(TINY).start(1)[:2])


def test_true_samples_are_judged_faultless():
    judge = PointJudge(replace(TINY, samples=2_000, steps=64))
    found = judge.score(judge.sample(lambda c: judge.parts[c].denoise))
    assert set(found) == set(judge.metrics) and all(len(v) == TINY.seeds for v in found.values())
    assert (
        np.mean(found["out_of_domain"]) == pytest.approx(0.01, abs=0.005) and np.mean(found["coverage"]) == 1
    )
    assert abs(np.mean(found["energy"])) < 0.005 and np.mean(found["class_error"]) < 0.1


def train_and_count(log):
    """Fine-tune, as a notebook does, and note each step of training."""

    def counted(steps, *args, **options):
        for step in steps:
            with log.open("a") as lines:
                lines.write(f"{step.step}\n")
            yield step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "tqdm", counted)
        lab.finetuned(TINY)


def test_two_processes_that_need_a_network_train_it_once(tmp_path):
    log = tmp_path / "steps"
    for process in [started(train_and_count, log, DGTOY_CACHE=str(tmp_path)) for _ in range(2)]:
        process.join(120)
        assert process.exitcode == 0
    assert len(log.read_text().split()) == TINY.pretrain.steps + TINY.finetune.steps


def test_a_changed_setting_is_trained_anew():
    assert replace(TINY, finetune=dict(dropout=0.5)).finetune == dataclasses.replace(
        TINY.finetune, dropout=0.5
    )
    a, b = lab.finetuned(TINY), lab.finetuned(replace(TINY, size=9))
    assert not torch.equal(a.params["body.0.bias"], b.params["body.0.bias"])


def test_rows_are_found_by_their_fields_and_one_must_be_one():
    record = dict(name="x", results=dict(rows=[dict(a=1, b=2), dict(a=1, b=3)]))
    assert records.row(record, b=3) == dict(a=1, b=3) and len(records.rows(record, a=1)) == 2
    with pytest.raises(KeyError, match="2 rows of x"):
        records.row(record, a=1)


def test_a_missing_record_says_which_command_makes_it(tmp_path):
    with refuses("plane.json is missing", "python -m dgtoy experiment plane", error=FileNotFoundError):
        records.load("plane", tmp_path)


def shuffled(record):
    """The record with its rows in another order."""
    order = np.random.default_rng(0).permutation(len(record["results"]["rows"]))
    return record | dict(results=record["results"] | dict(rows=[record["results"]["rows"][i] for i in order]))


CURVES = {
    "transfer": lambda r: records.family(r, "DoG", domain="moons"),
    "guides": lambda r: guides.of_guide(r, "ancestor"),
    "nulls": lambda r: nulls.of_guide(r, "own null", world="moons", stage="finished"),
    "blur": lambda r: blur.of_blur(r, "moons", 4.0),
}


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_over_w_does_not_hang_on_the_order_of_rows_and_lacks_none(name):
    record = records.load(name, FIGURES)
    curve = CURVES[name](record)
    assert [r["w"] for r in curve[1:]] == record["config"]["weights"]
    mixed = shuffled(record)
    assert CURVES[name](mixed) == curve
    missing = [(curve[0], "0 rows of"), (curve[-1], f"lacks w = {curve[-1]['w']}")]
    for gone, words in missing[: 1 if name == "blur" else 2]:  # there other blurs have that weight
        kept = [r for r in record["results"]["rows"] if r != gone]
        with refuses(words, error=KeyError):
            CURVES[name](record | dict(results=dict(rows=kept)))


def test_a_curve_may_end_in_a_calibrated_weight_and_have_weights_of_its_own():
    found = records.family(records.load("calibration", FIGURES), "DoG", stage="finished")
    assert [r["w"] for r in found] == [1.0, 1.1, 1.25, 1.5, 2.0, 3.0, "calibrated"]
    photos = records.load("photos", FIGURES)
    narrow = records.family(photos, "DoG on an interval", target="food")
    assert [r["w"] for r in narrow[1:]] == photos["config"]["narrow"] != photos["config"]["weights"]


@pytest.mark.parametrize(
    "rule, metric",
    [(exact.c1, "error"), (exact.c2, "floor"), (exact.c3, "found_std"), (exact.c8, "out_of_domain")],
)
def test_no_claim_holds_by_numbers_that_are_nan(rule, metric):
    """A maximum that begins with a number passes over those behind it."""
    record = copy.deepcopy(records.load("gap" if rule is exact.c8 else "exact", FIGURES))
    for r in [r for r in record["results"]["rows"] if metric in r][1:]:
        r[metric] = [math.nan] * len(r[metric]) if isinstance(r[metric], list) else math.nan
    try:
        assert rule(record).verdict == "fails"
    except ValueError as refusal:
        assert "finite" in str(refusal)


def test_a_finding_holds_when_all_its_parts_do():
    verdict = lambda *held: claims.finding.Finding(0, 0, 0, 8, "", dict(enumerate(held)), "", "").verdict
    assert (
        verdict(True, True) == "holds"
        and verdict(True, False) == "holds in part"
        and verdict(False, False) == "fails"
    )


def test_paired_differences_are_positive_where_the_better_is_better():
    rows = [
        dict(method="DoG", out_of_domain=[0.1, 0.2, 0.1]),
        dict(method="CFG", out_of_domain=[0.3, 0.5, 0.4]),
    ]
    mean, low, high = rules.paired(
        dict(name="x", results=dict(rows=rows)), dict(method="DoG"), dict(method="CFG")
    )
    assert mean == pytest.approx(0.8 / 3) and 0 < low <= mean <= high


def test_a_learning_rate_is_taken_by_the_loss_on_fresh_pictures():
    judge = PictureJudge(
        TINY_PICTURES
    )  # a tenth of ten steps, at a rate that does nothing and at one that does
    assert experiments.get("images_gap").best_rate(judge, (1e-9, 3e-2), seed=0) == 3e-2
    assert experiments.get("images_gap").best_rate(judge, (), seed=0) == TINY_PICTURES.finetune.lr


def test_a_domain_that_needs_longer_is_fine_tuned_so_long_and_its_regime_is_told():
    module, config = tiny("transfer")  # the moons, with a step more than the setting's
    longer, steps = module.run(config), config.setting.finetune.steps + 1
    assert dict(config.longer)["moons"] == steps
    same = replace(config, longer=(), setting=dict(finetune=dict(steps=steps)))
    assert alike(module.run(same)["results"], longer["results"])
    (fit,) = longer["results"]["fits"]
    fitted = dict(longer, results=dict(fits=[fit | dict(regime="finished"), dict(domain="grid", regime="x")]))
    assert fit["steps"] == steps and "moons finished and grid x" in finding.drawn(fitted)


def test_which_parts_of_a_claim_hold_is_told_in_one_sentence():
    assert report.told({"a": True, "b: x": True}) == ""
    parts = {"a": True, "b: x": True, "b: y": False, "b: z": True, "c: x": False, "c: y": False}
    assert report.told(parts) == "**Holds: a. Holds in part: b (2 of 3: not y). Not so: c (x / y).**"
    parts |= {"b: z": False}
    assert "b (1 of 3: only x)" in report.told(parts)
    assert "b (1 of 2: only x)" in report.told({"b: x": True, "b: y": False})
    assert report.told({"a*": True, "b": False}) == r"**Holds: a\*. Not so: b.**"  # a weight, no Markdown


def family(rates, energies, method="m"):
    """Rows over w = 1, 1.25, 1.5 of four seeds that are nearly alike."""
    spread = 1 + 0.01 * np.arange(4)
    return [
        dict(method=method if w > 1 else "none", w=w, out_of_domain=list(r * spread), energy=list(e * spread))
        for w, r, e in zip((1.0, 1.25, 1.5), rates, energies, strict=True)
    ]


def test_methods_are_compared_by_area_and_each_at_its_own_weight():
    """The one reaches with a longer step what the other reaches with a shorter one, at the same cost."""
    long, short = family((0.4, 0.1, 0.0), (0.1, 0.11, 0.2)), family((0.4, 0.25, 0.1), (0.1, 0.105, 0.11))
    found = rules.left(long, short)
    assert found["at own weight"][0] == pytest.approx(1.0) and found["by area"][0] == pytest.approx(1.0, 0.05)
    half = rules.left(family((0.4, 0.05, 0.0), (0.1, 0.11, 0.2)), long)
    assert half["at own weight"][0] == pytest.approx(0.5) and half["by area"][2] < 1
    assert rules.left(long, long[:1])["at own weight"][2] < 1  # no guidance is a curve of one point


@pytest.mark.parametrize(("cfg", "verdict"), [(0.2, "holds"), (0.05, "fails")])
def test_c12_asks_every_combination_for_the_order(cfg, verdict):
    rows = [
        dict(r, sampler="heun", steps=n)
        for n in (8, 16)
        for curve in (
            family((0.4, 0.1, 0.1), (0.1, 0.1, 0.1), "DoG"),
            family((0.4, cfg, cfg), (0.1, 0.1, 0.1), "CFG")[1:],
        )
        for r in curve
    ]
    setting = dict(finetune=dict(steps=5000, lr=1e-3), domain="moons", layout=None)
    config = dict(setting=setting, steps=[8, 16], weights=[1.25, 1.5])
    found = claims.c12(dict(name="steps", seeds=[0, 1, 2, 3], config=config, results=dict(rows=rows)))
    assert found.verdict == verdict and found.value == pytest.approx(0.1 / cfg)
    assert ("from 8 steps on" in found.note) == (verdict == "holds")


# the committed records


@pytest.mark.parametrize("path", RECORDS, ids=[p.stem for p in RECORDS])
def test_a_committed_record_is_a_full_run_with_its_provenance(path):
    record = json.loads(path.read_text())
    few = dict(blur=4, nulls=8, relatives=8, budget=4, null_branch=4, posters=1, photos_why=1)
    own_sources = record["config"].get("setting", {}).get("layout", 0) is None
    least = few.get(path.stem) or (8 if own_sources else 64 if path.stem in POINTS else 3)
    assert len(record["seeds"]) >= least and path.with_suffix(".png").exists()
    assert (
        re.fullmatch(r"[0-9a-f]{12}", record["provenance"]["source"]) and record["provenance"]["seconds"] > 0
    )
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity


def test_the_claims_are_what_the_rules_say_of_the_records():
    """Numbers to 1%: the last digits of a fit or a bootstrap are the processor's."""
    committed, judged = (
        json.loads((FIGURES / "claims.json").read_text()),
        {c["id"]: c for c in report.judge(FIGURES)},
    )
    assert {c["id"] for c in committed} == set(judged)
    for claim in committed:
        again = judged[claim["id"]]
        assert (claim["verdict"], claim["parts"]) == (again["verdict"], again["parts"])
        assert all(
            math.isclose(claim[k], again[k], rel_tol=1e-2, abs_tol=1e-3) for k in ("low", "value", "high")
        )
        assert claim["low"] <= claim["value"] <= claim["high"]


def test_every_claim_says_how_its_interval_was_made_and_over_how_many_draws():
    for claim in json.loads((FIGURES / "claims.json").read_text()):
        made = claim["interval"]
        assert re.match(r"95% (t interval|bootstrap|percentile bootstrap)|range", made), claim["id"]
        assert str(claim["n"]) in made or "so few seeds" in made, claim["id"]


def test_a_method_on_an_interval_guides_there_and_nowhere_else():
    pre, ft, judge = lab.prepared(TINY)
    weaker = lab.weaker_self(TINY)
    bases = ("CFG", "DoG", "autoguidance", "blurred self")
    names = ("none", *bases, *(name + lab.ON_AN_INTERVAL for name in bases))
    options = dict(interval=(0.1, 1.0), weaker=weaker, b=0.4)
    found = {name: D(0) for name, _, D in lab.methods(ft, pre, [2.0], names, **options)}
    x = judge.start(0)
    at = lambda name, sigma: found[name](x, torch.tensor(sigma))
    for name in bases:
        assert torch.equal(at(name + lab.ON_AN_INTERVAL, 0.5), at(name, 0.5))
        assert torch.equal(at(name + lab.ON_AN_INTERVAL, 2.0), at("none", 2.0))
        assert not torch.equal(at(name, 2.0), at("none", 2.0))
    with refuses("method is 'magic'", "blurred self"):
        next(lab.methods(ft, pre, [2.0], ["magic"]))[2](0)


def test_a_poster_names_its_rows_and_shows_what_the_record_holds_under_its_title():
    row = dict(target="food", strip=posters.encoded(torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)))
    record = dict(results=dict(rows=[dict(row, row="none"), dict(row, row="DoG")]))
    fig = posters.poster(record, ["food"], ["DoG", "none"], "Sharper")
    assert [ax.get_title("left") for ax in fig.axes] == ["Sharper", ""]
    assert [ax.get_ylabel() for ax in fig.axes] == ["DoG", "none"]
    for ax in fig.axes:
        assert np.array_equal(ax.images[0].get_array(), posters.strip(row))
    fig = posters.poster(record, ["food"], ["none"], columns=1)  # a longer row goes on in the next line
    assert [ax.get_ylabel() for ax in fig.axes] == ["none", ""]
    lines = [ax.images[0].get_array() for ax in fig.axes]
    assert np.array_equal(np.concatenate(lines, 1), posters.strip(row))
    plt.close("all")
