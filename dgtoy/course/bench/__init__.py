"""Speed and memory as ratios against plain versions timed in the same run: `python -m dgtoy bench`.

`toy` times the exact worlds and the small networks, `dit` the transformers, `stages` the pipeline at full
size, `pipelines` guidance in diffusers. What was tried and did not pay stands in book/speed_notes.md.
"""

import dataclasses
import importlib.util
import itertools
import json
import statistics
import time

import torch

from ...checkpoint import write_text
from ...train import denoising_loss, fit
from ..records import record


@dataclasses.dataclass(frozen=True)
class Config:
    """rounds: timings of each way, of which the median counts."""

    seeds: int = 1
    rounds: int = 5


def refresh(out, device):
    """Run every benchmark on `device` and write OUT/bench_<device>.json, with the machine's own speed beside.

    On a CUDA device also OUT/bench_dit_<device>.json and bench_stages_<device>.json.  -> the tables as text
    """
    from . import dit, toy

    groups = dict(bench=toy)
    if torch.device(device).type == "cuda":
        groups["bench_dit"] = dit
        if importlib.util.find_spec("diffusers"):
            from . import stages

            groups["bench_stages"] = stages
    return "\n".join(measured(name, group, out, device) for name, group in groups.items())


def refresh_pipelines(out, device):
    """What guidance costs in a text-to-image pipeline, into OUT/bench_pipelines_<device>.json.  -> as text"""
    from . import pipelines

    return measured("bench_pipelines", pipelines, out, device)


def measured(name, group, out, device):
    """The rows of a module of benchmarks, into OUT/NAME_<device>.json.  -> as text"""
    started, speed = time.time(), machine_speed()
    found = dict(rows=list(group.benchmarks(device)), machine_speed=speed)
    made = record(name, Config(rounds=getattr(group, "ROUNDS", Config.rounds)), found, started, device)
    write_text(out / f"{name}_{torch.device(device).type}.json", json.dumps(made, indent=1) + "\n")
    return table(made)


def table(made):
    """A record's rows as lines of text."""
    lines = [f"{made['provenance']['device']}, torch {made['provenance']['torch']}"]
    for r in made["results"]["rows"]:
        ratio = f"{r['ratio']:8.1f}x" if r["ratio"] else " " * 9
        values = f"{r['ours']:>12,.4g} {r['plain']:>12,.4g} {r['unit']:14s}"
        lines.append(f"{r['what']:44s} {values} {ratio}  {r['note']}")
    return "\n".join(lines)


def machine_speed(n=1024, device="cpu", dtype=torch.float32):
    """Seconds of one matrix product of n x n by n x n, 2 n^3 operations: how fast this machine is.

    With as many threads as torch has. Times measured on two machines compare as multiples of it.
    """
    a = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    return seconds(dict(product=lambda: a @ a), device)["product"]


def now(device):
    """The time when all work so far is done, in seconds."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(ways, device, rounds=Config.rounds):
    """Median seconds of one call of each way, {name: f} -> {name: float}, after two calls to warm up.

    They are timed in turn, every second round backwards: what slows the machine meets all alike.
    """
    for f in ways.values():
        f()
        f()
    times = {name: [] for name in ways}
    for i in range(rounds):
        for name in list(ways)[:: -1 if i % 2 else 1]:
            start = now(device)
            ways[name]()
            times[name].append(now(device) - start)
    return {name: statistics.median(found) for name, found in times.items()}


def row(what, ours, plain, unit, note, ratio=None):
    """One line of a benchmark. ratio: how many times better ours is, where that makes sense."""
    return dict(what=what, ours=ours, plain=plain, unit=unit, ratio=ratio, note=note)


def rates(what, unit, note, took, ours=1, plain=1):
    """A row of two speeds.

    ours, plain: units per call of each way. took: seconds of a call, under the same two names.
    """
    ours, plain = ours / took["ours"], plain / took["plain"]
    return row(what, ours, plain, unit, note, ours / plain)


def fit_seconds(net, data, recipe, steps, plain, loss, device):
    """Seconds of so many steps of `fit`, and of one step of `plain_step` on the network `plain`."""
    optimizer = torch.optim.Adam(plain.parameters(), lr=recipe.lr)
    ours = advance(fit(net, data, recipe, net.clone()), steps)
    return seconds(dict(ours=ours, plain=plain_step(plain, loss, optimizer)), device)


def plain_loss(net, x0, sigma, label):
    """The denoising loss of a batch, written as a person does.  x0 (B, *D), sigma, label (B,) -> ()"""
    x = x0 + sigma.view(-1, *[1] * (x0.ndim - 1)) * torch.randn_like(x0)
    return denoising_loss(net(x, sigma, label), x0, sigma, net.sigma_data)


def plain_step(net, loss, optimizer):
    """A function that takes one training step as a person writes it: loss, gradient, optimizer, averages."""
    averages = [p.detach().clone() for p in net.parameters()]

    def step():
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            for average, p in zip(averages, net.parameters(), strict=True):
                average.lerp_(p, 1e-3)
        return value.item()

    return step


def advance(steps, n):
    """A function that takes the next n steps of a generator."""
    return lambda: list(itertools.islice(steps, n))
