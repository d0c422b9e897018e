"""Speed and memory as ratios against plain versions timed in the same run: `python -m dgtoy bench`."""

import dataclasses
import importlib.util
import json
import statistics
import subprocess
import sys
import time

import torch

from ...checkpoint import write_text
from ...gmm import GaussianMixture
from ...guidance import domain_guidance
from ...nets import MLP, Ensemble
from ...samplers import heun, last
from ...schedules import karras, log_normal
from ...train import Recipe, denoising_loss, fit
from ..records import record
from ..worlds import domains
from . import dit as bench_dit
from . import images as bench_images

NETWORK = dict(num_classes=10, width=64, depth=4)


@dataclasses.dataclass(frozen=True)
class Config:
    """The shape of the networks that the benchmark trains and samples."""

    seeds: int = 1
    network: tuple = tuple(NETWORK.items())


def machine_speed(n=1024, repeats=5, device="cpu"):
    """Seconds of one float32 matrix product of n x n by n x n, 2 n^3 operations: how fast this machine is.

    The least of `repeats` timings after one to warm up, with as many threads as torch has. Two times measured on two
    machines compare as shares of this one.
    """
    a = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).to(device)
    times = []
    for _ in range(1 + repeats):
        start = _now(device)
        a @ a
        times.append(_now(device) - start)
    return min(times[1:])


def refresh(out, device):
    """Run every benchmark on `device`, write OUT/bench_<device>.json, and on a CUDA device OUT/bench_dit_ and bench_stages_<device>.json.  -> the tables as text"""
    kind, texts = torch.device(device).type, []
    large = dict(bench_dit=bench_dit.benchmarks(), bench_stages=_stages()) if kind == "cuda" else {}
    for name, rows in (dict(bench=_small(device)) | large).items():
        started, found = time.time(), list(rows)
        if found:
            made = record(name, Config(), dict(rows=found), started, device)
            write_text(out / f"{name}_{kind}.json", json.dumps(made, indent=1) + "\n")
            texts.append(table(made))
    return "\n".join(texts)


def _small(device):
    """The exact worlds and the small networks."""
    yield from (measure(device) for measure in (training, scores, sampling))
    if torch.device(device).type == "cuda":
        yield memory()
        yield from bench_images.benchmarks()
    yield importing()


def _stages():
    """The stages of the pipeline at DiT-XL/2, where the extra `dit` is installed."""
    if importlib.util.find_spec("diffusers"):
        from . import stages as bench_stages

        yield from bench_stages.benchmarks()


def table(made):
    """The rows as lines of text."""
    lines = [f"{made['provenance']['device']}, torch {made['provenance']['torch']}"]
    for r in made["results"]["rows"]:
        ratio = f"{r['ratio']:8.1f}x" if r.get("ratio") else " " * 9
        lines.append(
            f"{r['what']:44s} {r['ours']:>12,.4g} {r['plain']:>12,.4g} {r['unit']:14s} {ratio}  {r['note']}"
        )
    return "\n".join(lines)


def training(device):
    """Seed-steps a second: many seeds in one ensemble, against one network in the loop a person writes."""
    cuda = torch.device(device).type == "cuda"
    seeds, batch, source = (1024 if cuda else 32), 512, domains.make().to(device).source
    net = Ensemble.of(range(seeds), **NETWORK).to(device)
    marks, steps = {}, 128 if not cuda else 512
    for step in fit(net, source, Recipe(steps=steps + 64, batch=batch), net.clone()):
        if step.step in (64, steps + 64):
            marks[step.step] = _now(device)
    ours = seeds * steps / (marks[steps + 64] - marks[64])
    plain = _plain_training(device, source, batch, 300)
    return dict(
        what=f"training, {seeds} seeds, batch {batch}",
        ours=ours,
        plain=plain,
        unit="seed-steps/s",
        ratio=ours / plain,
        note="EMA and fresh data included; plain: one network, Adam, .item() each step",
    )


def _plain_training(device, source, batch, steps):
    net = MLP(**NETWORK).to(device)
    ema = {k: v.detach().clone() for k, v in net.named_parameters()}
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step in range(steps + 50):
        if step == 50:
            start = _now(device)
        x0, label = source.draw(torch.rand(batch, device=device), torch.randn(batch, 2, device=device))
        label = torch.where(torch.rand(batch, device=device) < 0.1, net.null, label)
        sigma = log_normal(torch.randn(batch, device=device))
        x = x0 + sigma[:, None] * torch.randn(batch, 2, device=device)
        loss = denoising_loss(net(x, sigma, label), x0, sigma, net.sigma_data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, p in net.named_parameters():
            ema[name].mul_(0.999).add_(p.detach(), alpha=0.001)
        loss.item()
    return steps / (_now(device) - start)


def scores(device, components=1016):
    """Exact scores a second at one noise level, against a per-component einsum over eigenvectors."""
    g = torch.Generator().manual_seed(0)
    root = 0.1 * torch.randn(components, 2, 2, generator=g)
    mixture = GaussianMixture(
        torch.full((components,), 1 / components),
        2 * torch.randn(components, 2, generator=g),
        root @ root.mT + 1e-4 * torch.eye(2),
    ).to(device)
    sigma = torch.tensor(0.1)
    rates = {}
    for name, f, n in (
        ("ours", mixture.score, 200_000),
        ("plain", lambda x, s: plain_score(mixture, x, s), 4_000),
    ):
        x = 2 * torch.randn(n, 2, generator=g).to(device)
        rates[name] = n / _median(lambda f=f, x=x: f(x, sigma), device)
    return dict(
        what=f"exact scores, {components} components, 2-D",
        ours=rates["ours"],
        plain=rates["plain"],
        unit="points/s",
        ratio=rates["ours"] / rates["plain"],
        note="plain: einsum over the eigenvectors of every component, float32",
    )


def plain_score(mixture, x, sigma):
    """The score written directly: an inverse covariance for each point and component.  x (N, D) -> (N, D)"""
    axes, means = mixture.axes.to(x.dtype), mixture.means.to(x.dtype)
    var = (mixture.variances + sigma**2).to(x.dtype).expand(len(x), *mixture.variances.shape)  # (N, K, D)
    inverse = torch.einsum("kij,nkj,klj->nkil", axes, 1 / var, axes)  # (N, K, D, D)
    away = means - x[:, None]  # (N, K, D)
    logits = mixture.weights.log().to(x.dtype) - 0.5 * torch.einsum("nki,nkij,nkj->nk", away, inverse, away)
    r = (logits - 0.5 * var.log().sum(-1)).softmax(-1)  # (N, K)
    return torch.einsum("nk,nkij,nkj->ni", r, inverse, away)


def sampling(device):
    """Guided samples a second from one 2-D network, all at once, against the plain loop over batches of 256."""
    n, small = (1_000_000, 4096) if torch.device(device).type == "cuda" else (50_000, 4096)
    main, guide = (MLP(**NETWORK, seed=s).to(device) for s in (0, 1))
    D = domain_guidance(main.denoiser(0), guide.denoiser(guide.null), 1.5)
    sigmas = karras(32, 0.005, 20.0)
    run = lambda count: last(heun(D, 20 * torch.randn(count, 2, device=device), sigmas))
    ours = n / _median(lambda: run(n), device, repeats=3)
    plain = small / _median(
        lambda: [_plain_heun(main, guide, 256, sigmas.tolist(), device) for _ in range(small // 256)],
        device,
        repeats=3,
    )
    return dict(
        what=f"guided sampling, {n:,} points, Heun 32",
        ours=ours,
        plain=plain,
        unit="points/s",
        ratio=ours / plain,
        note="plain: batches of 256, one after another",
    )


@torch.no_grad()
def _plain_heun(main, guide, n, sigmas, device, w=1.5):
    x = sigmas[0] * torch.randn(n, 2, device=device)
    for s, t in zip(sigmas[:-1], sigmas[1:], strict=True):

        def slope(x, s):
            level = torch.full((n,), s, device=device)
            a, b = main(x, level, 0), guide(x, level, guide.null)
            return (x - b - w * (a - b)) / s

        d = slope(x, s)
        ahead = x + (t - s) * d
        x = x + (t - s) * (d + slope(ahead, t)) / 2 if t > 0 else ahead
    return x


def memory():
    """Peak memory of sampling by the GPU allocator: four times the samples, and four times the steps, relative to the first."""
    first, more, longer = (
        _peak_cuda(n, steps) for n, steps in ((400_000, 16), (1_600_000, 16), (400_000, 64))
    )
    return dict(
        what="peak memory, 4x samples | 4x steps",
        ours=more / first,
        plain=longer / first,
        unit="times",
        note=f"linear in samples, flat in steps; {first / 2**20:.0f} MiB for 400,000 points",
    )


def _peak_cuda(n, steps):
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _sample_once(n, steps, "cuda")
    return torch.cuda.max_memory_allocated() - before


def _sample_once(n, steps, device):
    net = MLP(**NETWORK).to(device)
    last(heun(net.denoiser(0), 20 * torch.randn(n, 2, device=device), karras(steps, 0.005, 20.0)))


def importing():
    """Seconds that importing dgtoy adds to importing torch, and seconds of torch itself; medians of fresh processes."""
    code = "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); import dgtoy; print(b - a, time.perf_counter() - b)"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(5)
    ]
    torch_s, ours = (statistics.median(float(r[i]) for r in runs) for i in (0, 1))
    return dict(
        what="import dgtoy, after import torch",
        ours=ours,
        plain=torch_s,
        unit="s",
        note="plain: import torch itself",
    )


def _now(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _median(f, device, repeats=5):
    f()
    times = []
    for _ in range(repeats):
        start = _now(device)
        f()
        times.append(_now(device) - start)
    return statistics.median(times)
