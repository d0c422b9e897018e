"""Records on disk: what an experiment found, with its config, seeds and provenance; its rows,
and the best of them on other seeds."""

import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import platform
import subprocess
import tarfile
import time

import numpy as np
import torch

from ..checkpoint import whole, write_text
from . import plot
from .intervals import STUDENT

PACKAGE = pathlib.Path(__file__).parents[1]
INTERVALS = f"{STUDENT} over seeds"
HIGHER_IS_BETTER = ("precision", "recall", "density", "coverage")


def record(name, config, results, started, device):
    """What an experiment returns, ready for JSON: config, seeds by name, results, how
    intervals are made, provenance."""
    config = json.loads(json.dumps(dataclasses.asdict(config)))
    seeds = config.get("setting") or config.get("study") or config
    first = seeds.get("first", 0)
    return dict(
        name=name,
        config=config,
        seeds=list(range(first, first + seeds["seeds"])),
        intervals=INTERVALS,
        results=results,
        provenance=provenance(started, device),
    )


def provenance(started, device):
    """Where a result comes from: device, versions, seconds since `started`, and the code."""
    where = torch.cuda.get_device_name() if str(device).startswith("cuda") else f"{os.cpu_count()}-core CPU"
    commit, clean = revision()
    return dict(
        device=where,
        python=platform.python_version(),
        torch=torch.__version__.split("+")[0],
        seconds=round(time.time() - started, 1),
        source=fingerprint(),
        commit=commit,
        clean=clean,
    )


def fingerprint():
    """The first 12 digits of the SHA-256 over the package's source."""
    files = sorted(PACKAGE.rglob("*.py"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()[:12]


def revision(folder=PACKAGE):
    """The commit that is checked out, and whether the package is as it was committed.
    -> (commit, clean); None, None outside a checkout"""

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, check=True
        ).stdout

    try:
        if not git("ls-files", "."):  # a checkout of something else that the package lies in
            return None, None
        return git("rev-parse", "HEAD").strip(), not git("status", "--porcelain", ".")
    except (OSError, subprocess.CalledProcessError):
        return None, None


AGREE = "agree with the commit that they name"
UNNAMED = "name no commit, or changes beside it"
OTHER = "name a commit of another source, or none of this history"


def by_source(folders, package=PACKAGE):
    """The records in folders by what the commits that they name say of their source.  -> {words: [paths]}

    Raises ValueError where the history is not there, as in an archive, or not whole.
    """
    asked = ["git", "rev-parse", "--is-shallow-repository"]
    try:
        whole = subprocess.run(asked, cwd=package, capture_output=True, check=True).stdout.split() == [
            b"false"
        ]
    except (OSError, subprocess.CalledProcessError):
        whole = False
    if not whole:
        raise ValueError(f"{package} has no history, or a part of one; expected a full clone")
    found = {AGREE: [], UNNAMED: [], OTHER: []}
    for path in sorted(path for folder in folders for path in pathlib.Path(folder).rglob("*.json")):
        held = _read(path)
        made = held.get("provenance") if isinstance(held, dict) else None
        if made and not made.get("clean"):
            found[UNNAMED].append(path)
        elif made:
            found[AGREE if source_of(made["commit"], package) == made["source"] else OTHER].append(path)
    return found


@functools.cache
def source_of(commit, package=PACKAGE):
    """The `fingerprint` of the package in a commit of this history, "" for any other commit."""
    git = functools.partial(subprocess.run, cwd=package, capture_output=True, check=True)
    try:
        git(["git", "merge-base", "--is-ancestor", commit, "HEAD"])
        packed = git(["git", "archive", commit, "*.py"]).stdout
    except subprocess.CalledProcessError:
        return ""
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        files = {pathlib.PurePath(file.name): tar.extractfile(file).read() for file in tar if file.isfile()}
    return hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()[:12]


# what held-out weights say of a fine-tune on 256 points per class (`calibration.regime`, record `nulls`)
REGIMES = {(2000, 1e-3): "unfinished (detail missing)", (5000, 1e-3): "finished"}


def regime(record):
    """In which regime all fine-tunes of a record on points are, "" where it goes through several."""
    config = record["config"]
    if {"stages", "sizes", "gaps"} & config.keys():
        return ""
    recipe = config["setting"]["finetune"]
    return REGIMES.get((recipe["steps"], recipe["lr"]), "")


def caption(record, more="", intervals=True):
    """What a figure's foot says: world, regime, number of seeds, kind of interval if any, and what more."""
    setting = record["config"]["setting"]
    world = {"moons": "two moons, ", "spirals": "spirals, "}.get(setting.get("domain"), "")
    if setting.get("layout", 0) is None:
        world += "each on a source of its own, "
    elif world == "spirals, ":
        world += "another source, "
    if "truth" in setting:
        world = f"{setting['classes']} classes, {setting['size']} images a class; "
    elif regime(record):
        world += f"fine-tunes {regime(record)}, "
    return f"{world}{len(record['seeds'])} seeds{', 95% t intervals' * intervals}{more}"


WIDTH = 2400  # pixels of a record's figure at most, three for each of a page's


def save(record, figure, folder, dpi=200):
    """The record as folder/name.json and its figure, at so many dots per inch at most, as folder/name.png.
    -> the record's path"""
    folder = pathlib.Path(folder)
    with whole(folder / f"{record['name']}.png") as part:
        part.write_bytes(plot.png(figure, dpi=min(dpi, WIDTH / figure.get_figwidth())))
    write_text(folder / f"{record['name']}.json", json.dumps(record, separators=(",", ":")) + "\n")
    return folder / f"{record['name']}.json"


def load(name, folder="figures"):
    """The record of an experiment. Raises FileNotFoundError with the command that makes it, ValueError for a
    file that holds none."""
    path = pathlib.Path(folder) / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; `python -m dgtoy experiment {name} --preset full` makes it"
        )
    record = _read(path)
    if not isinstance(record, dict) or not {"config", "results", "provenance"} <= set(record):
        raise ValueError(f"{path} holds no record; expected what `python -m dgtoy experiment {name}` writes")
    return record


def _read(path):
    """What a file of JSON holds. Raises ValueError, naming it, for one that is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{path} is not complete ({e}); expected a record") from None


def merge(by_seed):
    """Each seed's rows, in one order, as rows with a list over seeds in each metric."""
    together = {}
    for result in by_seed:
        for r in result:
            key = tuple((k, v) for k, v in r.items() if k != "score")
            together.setdefault(key, []).append(r["score"])
    return [dict(key) | {m: [s[m] for s in scores] for m in scores[0]} for key, scores in together.items()]


def rows(record, **wanted):
    """The result rows whose fields equal `wanted`."""
    return [r for r in record["results"]["rows"] if all(r.get(k) == v for k, v in wanted.items())]


def row(record, **wanted):
    """The one result row whose fields equal `wanted`. Raises KeyError if there is not exactly one."""
    found = rows(record, **wanted)
    if len(found) != 1:
        raise KeyError(f"{len(found)} rows of {record['name']} have {wanted}; expected 1")
    return found[0]


def values(record, metric, **wanted):
    """A metric of that one row, by seed.  -> (S,)"""
    return np.array(row(record, **wanted)[metric])


def of_method(record, metric, method, w, **where):
    """A method's metric at weight w, by seed; none has no weight.  -> (S,)"""
    weight = {} if method == "none" else dict(w=w)
    return values(record, metric, method=method, **weight, **where)


def family(record, name, kind="method", **where):
    """A method, or a guide, over its weights w as they rise, behind the row without one, at w = 1.

    kind: the field of a row that has its name. Raises KeyError where a weight is missing that it has
    elsewhere in the record, or the row without guidance.
    """
    rising = lambda r: (r["w"] == "calibrated", r["w"])  # which is no number, and comes last
    guided = sorted(rows(record, **{kind: name}, **where), key=rising)
    missing = {r["w"] for r in rows(record, **{kind: name})} - {r["w"] for r in guided}
    if guided and missing:
        raise KeyError(f"{name} of {record['name']} lacks w = {missing.pop()} at {where}; expected it")
    return [row(record, **{kind: "none"}, **where), *guided]


def best(rows, metric="frechet", on=slice(None)):
    """The row that is best by the mean of a metric. on: over these places in the list
    of seeds, by default all."""
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    return min(rows, key=lambda r: sign * np.mean(np.array(r[metric])[on]))


HALVES = (slice(0, None, 2), slice(1, None, 2))  # every other seed


def held_out(rows, metric="frechet", shown=None):
    """The best of some rows on seeds that had no part in the choice: chosen on one half, shown
    on the other, and the other way round.

    metric: by which it is chosen. shown: what is shown of it, by default the same.  -> (S,)
    """
    values = np.empty(len(rows[0][metric]))
    for choose, show in (HALVES, HALVES[::-1]):
        values[show] = np.array(best(rows, metric, choose)[shown or metric])[show]
    return values
