"""Records: seeds by their names, where a result comes from, and what is best on other seeds."""

import dataclasses
import json
import pathlib
import subprocess

import numpy as np
import pytest
from helpers import refuses

from dgtoy.checkpoint import write_text
from dgtoy.course import experiments, records
from dgtoy.course.lab import PointSetting

FIGURES = pathlib.Path(__file__).resolve().parents[1] / "figures"
KEPT = [p for p in sorted(FIGURES.rglob("*.json")) if p.stem in experiments.NAMES]


@dataclasses.dataclass(frozen=True)
class Config:
    setting: PointSetting


def test_a_record_names_its_seeds_and_how_intervals_are_made():
    record = records.record("x", Config(PointSetting(seeds=3, first=100)), dict(rows=[]), 0.0, "cpu")
    assert record["seeds"] == [100, 101, 102] and record["intervals"] == records.INTERVALS
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize(
    "text, came",
    [
        ('{"name": "gap", ', "not complete"),
        ("[]", "no record"),
        ("{}", "no record"),
        ('{"provenance": {}}', "no record"),
    ],
)
def test_a_damaged_record_is_named(text, came, tmp_path):
    (tmp_path / "gap.json").write_text(text)
    with refuses(f"gap.json {'is' if 'not' in came else 'holds'} {came}", "expected"):
        records.load("gap", tmp_path)


@pytest.mark.parametrize("path", KEPT, ids=[f"{p.parent.name}-{p.stem}" for p in KEPT])
def test_the_committed_records_have_the_same_form(path):
    record = json.loads(path.read_text())
    config = record["config"]
    problem = config.get("setting") or config.get("study") or config
    first = problem.get("first", 0)
    assert record["seeds"] == list(range(first, first + problem["seeds"]))
    assert record["intervals"].startswith("95% ") and {"commit", "clean"} <= set(record["provenance"])


def git(folder, *arguments):
    command = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_revision_is_the_commit_and_whether_the_package_is_as_committed(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("1")
    assert records.revision(package) == (None, None)  # no checkout
    git(tmp_path, "init", "-q")
    assert records.revision(package) == (None, None)  # a checkout that does not hold the package
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert records.revision(package) == (commit, True)
    (tmp_path / "figure.png").write_text("a new figure is no change of the code")
    assert records.revision(package) == (commit, True)
    (package / "code.py").write_text("2")
    assert records.revision(package) == (commit, False)


def test_a_record_s_source_is_compared_with_the_commit_that_it_names(tmp_path, monkeypatch):
    package, figures = tmp_path / "package", tmp_path / "figures"
    monkeypatch.setattr(records, "PACKAGE", package)
    git(tmp_path, "init", "-q")
    (package / "sub").mkdir(parents=True)
    for text in ("1", "2"):
        for name in ("code.py", "sub/code.py", "sub.py", "data.bin"):
            (package / name).write_text(f"{name} {text}")
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-qm", text)
    commit, before = git(tmp_path, "log", "--format=%H").split()
    source = records.fingerprint()

    def named(name, **made):
        write_text(figures / "replica" / f"{name}.json", json.dumps(dict(provenance=made)))
        return figures / "replica" / f"{name}.json"

    write_text(figures / "claims.json", "[]")  # no record
    own = named("own", source=source, commit=commit, clean=True)
    changed = named("changed", source=source, commit=commit, clean=False)
    none = named("none", source=source, commit=None)
    expected = {records.AGREE: [own], records.UNNAMED: [changed, none], records.OTHER: []}
    assert records.by_source([figures], package) == expected
    older = named("older", source=source, commit=before, clean=True)
    strange = named("strange", source=None, commit="f" * 40, clean=True)
    assert records.by_source([figures], package)[records.OTHER] == [older, strange]


def test_without_the_whole_history_no_record_is_said_to_be_of_another_source(tmp_path):
    git(tmp_path, "init", "-q", "whole")
    for text in ("1", "2"):
        git(tmp_path / "whole", "commit", "-q", "--allow-empty", "-m", text)
    git(tmp_path, "clone", "-q", "--depth", "1", (tmp_path / "whole").as_uri(), "shallow")
    (tmp_path / "archive").mkdir()
    assert not any(records.by_source([], tmp_path / "whole").values())
    for name in ("shallow", "archive"):
        with refuses(f"{name} has no history, or a part of one; expected a full clone"):
            records.by_source([], tmp_path / name)


def test_without_git_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert records.revision() == (None, None)


ROWS = [
    dict(method="none", w=1.0, frechet=[5.0, 5.0, 5.0, 5.0], coverage=[0.1, 0.1, 0.1, 0.1]),
    dict(method="DoG", w=1.5, frechet=[1.0, 9.0, 1.0, 9.0], coverage=[0.9, 0.2, 0.9, 0.2]),
    dict(method="DoG", w=2.0, frechet=[9.0, 1.0, 9.0, 1.0], coverage=[0.2, 0.8, 0.2, 0.8]),
    dict(method="CFG", w=1.5, frechet=[0.0, 0.0, 0.0, 0.0], coverage=[1.0, 1.0, 1.0, 1.0]),
]
RECORD = dict(name="x", seeds=[100, 101, 102, 103], results=dict(rows=ROWS))


def test_the_best_row_has_the_lowest_distance_or_the_highest_share():
    dog = records.family(RECORD, "DoG")
    assert [r["w"] for r in dog] == [1.0, 1.5, 2.0]
    assert records.best(dog, on=slice(0, None, 2))["w"] == 1.5
    assert records.best(dog, on=[1, 3])["w"] == 2.0
    assert records.best(dog, "coverage", on=[0, 2])["w"] == 1.5


def test_what_is_best_on_one_half_of_the_seeds_is_shown_on_the_other():
    dog = records.family(RECORD, "DoG")
    assert records.held_out(dog).tolist() == [9.0, 9.0, 9.0, 9.0]  # each choice fails on the other half
    assert records.held_out(dog, shown="coverage").tolist() == [0.2, 0.2, 0.2, 0.2]
    assert records.held_out(records.family(RECORD, "CFG")).tolist() == [0.0] * 4


def test_values_are_one_row_s_metric_by_seed():
    assert np.array_equal(records.values(RECORD, "frechet", method="CFG"), np.zeros(4))
    with pytest.raises(KeyError, match="2 rows of x"):
        records.values(RECORD, "frechet", method="DoG")
