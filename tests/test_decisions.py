"""The table of decisions: rows for every regime, each naming the guide that its record favours."""

import itertools
import json

import numpy as np
import pytest

from dgtoy.course.claims import decisions

STAGES = ("hardly begun", "class unfinished", "detail missing", "finished")


def nulls(best):
    """A record of four stages in which one guide leaves least outside and the lowest energy distance."""
    found, fits = [], []
    for stage in STAGES:
        place = dict(world="moons", stage=stage, main="learned")
        unguided = dict(energy=[0.3] * 4, out_of_domain=[0.1] * 4, thickness=[1.1] * 4)
        found.append(place | dict(guide="none", w=1.0) | unguided)
        for guide in decisions.GUIDES:
            left, energy = (0.01, 0.2) if guide == best else (0.05, 0.25)
            rate = (left + 0.001 * np.arange(4)).tolist()
            costs = dict(energy=[energy] * 4, thickness=[0.98] * 4)
            found.append(place | dict(guide=guide, w=2.0, out_of_domain=rate) | costs)
        high = {"hardly begun": [2.5, 1.2], "class unfinished": [3.0, 1.2], "detail missing": [1.0, 1.3]}
        weights = [[[w] for w in high.get(stage, [1.0, 1.0])]] * 4
        fits.append(dict(world="moons", stage=stage, DoG=weights, CFG=weights))
    config = dict(worlds=[["moons"]], stages=[[s, 1, 1] for s in STAGES], levels=[2.0, 0.1])
    return dict(name="nulls", seeds=[0, 1, 2, 3], config=config, results=dict(rows=found, fits=fits))


def blur(best):
    """A record in which one method leaves least outside at equal cost, and others less for more."""
    place = lambda method, w, left, thick: (
        dict(world="far source", method=method, b=4.0, w=w, energy=[0.02] * 4, thickness=[thick] * 4)
        | dict(out_of_domain=(left + 0.001 * np.arange(4)).tolist())
    )
    methods = ("CFG", "DoG", "autoguidance", "blurred self")
    found = [place("none", 1.0, 0.09, 1.0)]
    found += [place(m, 1.5, 0.01 if m == best else 0.05, 0.9) for m in methods]
    found += [place(m, 3.0, 0.005, 0.5) for m in methods if m != best]
    return dict(name="blur", config={}, results=dict(rows=found))


@pytest.fixture
def folder(tmp_path):
    def save(record):
        (tmp_path / f"{record['name']}.json").write_text(json.dumps(dict(provenance={}) | record))

    row = lambda **fields: fields | dict(energy=[0.02] * 4, out_of_domain=[0.05] * 4)
    calibrated = [row(stage="overfitted", method=m, w=w) for m, w in (("none", 1.0), ("DoG", "calibrated"))]
    fits = [dict(stage="overfitted", DoG=[[[0.97], [0.52]]] * 4)]
    save(dict(name="calibration", config=dict(levels=[2.0, 0.1]), results=dict(rows=calibrated, fits=fits)))
    cells = [row(gap=2.0, breadth=1.0, method=m, w=1.0, predicted=[1.0] * 4) for m in ("none", "DoG")]
    save(dict(name="gap", config={}, results=dict(rows=cells)))
    save(blur("DoG"))
    return tmp_path, save


def test_the_short_table_has_the_same_guides_and_weights_and_each_stage_once(folder):
    out, save = folder
    save(nulls("weaker self"))
    cells = [line.strip("| ").split(" | ") for line in decisions.table(out).splitlines()[2:]]
    short = [line.strip("| ").split(" | ") for line in decisions.short(out).splitlines()[2:]]
    told = {stage: (guide, w) for stages, guide, w in short for stage in stages.split(", ")}
    assert told == {c[0]: (c[2], c[3]) for c in cells}
    assert all(a[1:] != b[1:] for a, b in itertools.pairwise(short))


def test_the_weight_of_a_finished_fine_tune_costs_a_bounded_share_of_thickness(folder):
    out, save = folder
    record = nulls("own null")
    harsh = [
        r | dict(w=3.0, thickness=[0.7] * 4, out_of_domain=[0.001] * 4) for r in record["results"]["rows"]
    ]
    record["results"]["rows"] += [r for r in harsh if r["guide"] != "none"]
    save(record)
    finished = decisions.decisions(out)[3]
    assert finished[3] == "2" and "thickness 1.100 to 0.980" in finished[4]


@pytest.mark.parametrize("best, words", [(g, words) for g, (_, words) in decisions.GUIDES.items()])
def test_each_regime_names_the_guide_that_its_record_favours(folder, best, words):
    out, save = folder
    save(nulls(best))
    lines = decisions.table(out).splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines[2:]]
    assert [c[0] for c in cells[:5]] == [*STAGES, "overfitted"] and all(len(c) == 6 for c in cells)
    assert [c[2] for c in cells[:4]] == [words] * 4 and {c[3] for c in cells[:4]} == {"2"}
    assert "up to 2.5" in cells[0][1] and "up to 3.0" in cells[1][1] and "σ ≤ 0.1" in cells[2][1]
    assert "0.300 to 0.200" in cells[0][4] and "0.100 to 0.01" in cells[3][4]
    assert "thickness 1.100 to 0.980" in cells[3][4]
    others = [name for name, _ in decisions.GUIDES.values() if name != decisions.GUIDES[best][0]]
    assert all(f"{name} **1.2" in cells[0][5] and f"{name} **4." in cells[3][5] for name in others)
    assert "down to 0.5" in cells[4][1] and cells[4][1].startswith("w\\* below 0.9")
    assert [c[1].startswith("w\\* above 1.1") for c in cells[:4]] == [True] * 3 + [False]


def test_a_ratio_is_bold_where_its_interval_excludes_one():
    values = {
        "own null": [1.0, 1.1, 0.9, 1.0],
        "learned source": [2.0, 2.2, 1.9, 2.1],
        "other": [0.1, 9, 1, 1],
    }
    told = decisions._beside("own null", {g: np.array(v) for g, v in values.items()})
    assert told == "DoG **2.0**, other 2.8"


@pytest.mark.parametrize("best, words", [words for words in decisions.GUIDES.values()])
def test_outside_the_source_the_guide_is_the_one_that_leaves_least_for_equal_costs(folder, best, words):
    out, save = folder
    save(nulls("own null"))
    save(blur(best))
    row = decisions.decisions(out)[-1]
    assert row[2:4] == (words, "1.5") and "thickness 1.000 to 0.900" in row[4]
    assert best not in row[5].partition(";")[0] and "DoG helps in 0% of 1 such cells" in row[5]


def test_without_its_record_the_table_says_which_command_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="experiment nulls --preset full"):
        decisions.table(tmp_path)
