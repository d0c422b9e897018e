"""Records on disk: what an experiment found, with config, seeds and provenance; its rows, merged over seeds; weights chosen on other seeds."""

import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import time

import numpy as np
import torch

import dgtoy

from ..checkpoint import write_text


def record(name, config, results, started, device):
    """What an experiment returns: config, seeds, results and where they come from, ready for JSON."""
    config = json.loads(json.dumps(dataclasses.asdict(config)))
    seeds = list(range((config.get("setting") or config.get("study") or config)["seeds"]))
    return dict(
        name=name, config=config, seeds=seeds, results=results, provenance=provenance(started, device)
    )


def provenance(started, device):
    """Where a result comes from: device, versions, seconds since `started`, source revision."""
    where = torch.cuda.get_device_name() if str(device).startswith("cuda") else f"{os.cpu_count()}-core CPU"
    return dict(
        device=where,
        python=platform.python_version(),
        torch=torch.__version__.split("+")[0],
        seconds=round(time.time() - started, 1),
        source=revision(),
    )


def revision():
    """A fingerprint of the package's source: the first 12 digits of the SHA-256 over its files."""
    files = sorted(pathlib.Path(dgtoy.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()[:12]


def caption(record):
    """What a figure's foot says: the world, the number of seeds, the kind of interval."""
    world = {"moons": "two moons", "spirals": "spirals, another source"}.get(
        record["config"]["setting"]["domain"], ""
    )
    return f"{world}, {len(record['seeds'])} seeds, 95% bootstrap intervals"


def save(record, figure, folder):
    """The record as folder/name.json and its figure as folder/name.png.  -> the record's path"""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{record['name']}.{os.getpid()}.part"
    try:
        figure.savefig(part, format="png")
        os.replace(part, folder / f"{record['name']}.png")
    finally:
        part.unlink(missing_ok=True)
    write_text(folder / f"{record['name']}.json", json.dumps(record, separators=(",", ":")) + "\n")
    return folder / f"{record['name']}.json"


def load(name, folder="figures"):
    """The record of an experiment. Raises FileNotFoundError with the command that makes it."""
    path = pathlib.Path(folder) / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; `python -m dgtoy experiment {name} --preset full` makes it")
    return json.loads(path.read_text())


def rows(record, **wanted):
    """The result rows whose fields equal `wanted`."""
    return [r for r in record["results"]["rows"] if all(r.get(k) == v for k, v in wanted.items())]


def row(record, **wanted):
    """The one result row whose fields equal `wanted`. Raises KeyError if there is not exactly one."""
    found = rows(record, **wanted)
    if len(found) != 1:
        raise KeyError(f"{len(found)} rows of {record['name']} have {wanted}; expected 1")
    return found[0]


def best(record, metric, on, method, **where):
    """The weight at which a method, or none, is best by the mean of a metric over the seeds `on`.  -> its row"""
    family = rows(record, method="none", **where) + rows(record, method=method, **where)
    sign = 1 if metric in ("frechet", "style_error", "class_error") else -1
    return min(family, key=lambda r: sign * np.mean([r[metric][s] for s in on]))


def merge(by_seed):
    """Each seed's rows, in one order, as rows with a list over seeds in each metric."""
    together = {}
    for result in by_seed:
        for r in result:
            key = tuple((k, v) for k, v in r.items() if k != "score")
            together.setdefault(key, []).append(r["score"])
    return [dict(key) | {m: [s[m] for s in scores] for m in scores[0]} for key, scores in together.items()]


def held_out(record, method, metric="frechet", shown=None, **where):
    """A method at the weight that is best by `metric` on one half of the seeds, shown on the other half; and the other way round.

    shown: the metric to show, by default the same.  -> (S,)
    """
    seeds, values = record["seeds"], np.empty(len(record["seeds"]))
    for choose, show in ((seeds[::2], seeds[1::2]), (seeds[1::2], seeds[::2])):
        values[show] = np.array(best(record, metric, choose, method, **where)[shown or metric])[show]
    return values
