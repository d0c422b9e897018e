"""The exact worlds and the small networks: training, scores, sampling, memory; on a processor the photo model
that ships; and what the import costs."""

import functools
import statistics
import subprocess
import sys

import torch

from ... import shipped
from ...dit import network
from ...gmm import GaussianMixture
from ...guidance import domain_guidance
from ...nets import MLP, Ensemble
from ...samplers import heun, karras, last, log_normal
from ...train import Recipe
from ..worlds import domains
from . import fit_seconds, plain_loss, rates, row, seconds

NETWORK = dict(num_classes=10, width=64, depth=4)
SIGMAS = (0.005, 20.0)
W = 1.5


def benchmarks(device):
    """All rows, one after the other."""
    for measure in (training, scores, sampling):
        yield measure(device)
    if torch.device(device).type == "cuda":
        yield memory(device)
    else:
        yield photographs()
    yield importing()


def training(device, batch=512, steps=16):
    """Seed-steps per second: many seeds in one ensemble, against one network in the loop one writes first."""
    seeds = 1024 if torch.device(device).type == "cuda" else 32
    source = domains.make().to(device).source
    net, single = Ensemble.of(range(seeds), **NETWORK).to(device), MLP(**NETWORK).to(device)

    def loss():
        x0, label = source.draw(torch.rand(batch, device=device), torch.randn(batch, 2, device=device))
        label = torch.where(torch.rand(batch, device=device) < 0.1, single.null, label)
        return plain_loss(single, x0, log_normal(torch.randn(batch, device=device)), label)

    took = fit_seconds(net, source, Recipe(steps=10_000, batch=batch), steps, single, loss, device)
    what = f"training, {seeds} seeds, batch {batch}"
    note = "EMA and fresh data included; plain: one network, Adam, .item() each step"
    return rates(what, "seed-steps/s", note, took, seeds * steps)


def scores(device, components=1016, n=200_000, plain_n=4_000):
    """Exact scores per second at one noise level, against a per-component einsum over eigenvectors."""
    g = torch.Generator().manual_seed(0)
    root = 0.1 * torch.randn(components, 2, 2, generator=g)
    mixture = GaussianMixture(
        torch.full((components,), 1 / components),
        2 * torch.randn(components, 2, generator=g),
        root @ root.mT + 1e-4 * torch.eye(2),
    ).to(device)
    x, sigma = 2 * torch.randn(n, 2, generator=g).to(device), torch.tensor(0.1)
    ways = dict(ours=lambda: mixture.score(x, sigma), plain=lambda: plain_score(mixture, x[:plain_n], sigma))
    note = "plain: einsum over the eigenvectors of every component, float32"
    took = seconds(ways, device)
    return rates(f"exact scores, {components} components, 2-D", "points/s", note, took, n, plain_n)


def plain_score(mixture, x, sigma):
    """The score written directly: an inverse covariance for each point and component.  x (N, D) -> (N, D)"""
    axes, means = mixture.axes.to(x.dtype), mixture.means.to(x.dtype)
    var = (mixture.variances + sigma**2).to(x.dtype).expand(len(x), *mixture.variances.shape)  # (N, K, D)
    inverse = torch.einsum("kij,nkj,klj->nkil", axes, 1 / var, axes)  # (N, K, D, D)
    away = means - x[:, None]  # (N, K, D)
    logits = mixture.weights.log().to(x.dtype) - 0.5 * torch.einsum("nki,nkij,nkj->nk", away, inverse, away)
    r = (logits - 0.5 * var.log().sum(-1)).softmax(-1)  # (N, K)
    return torch.einsum("nk,nkij,nkj->ni", r, inverse, away)


def sampling(device, plain_n=4096):
    """Guided samples per second of a 2-D network, all at once, against the plain loop over batches of 256."""
    n = 1_000_000 if torch.device(device).type == "cuda" else 50_000
    main, guide = (MLP(**NETWORK, seed=seed).to(device) for seed in (0, 1))
    D = domain_guidance(main.denoiser(0), guide.denoiser(guide.null), W)
    sigmas = karras(32, *SIGMAS)

    def plain():
        for _ in range(plain_n // 256):
            plain_heun(main, guide, 256, sigmas.tolist(), device)

    took = seconds(dict(ours=lambda: _sample(D, n, sigmas, device), plain=plain), device, rounds=3)
    note = "plain: batches of 256, one after another"
    return rates(f"guided sampling, {n:,} points, Heun 32", "points/s", note, took, n, plain_n)


def _sample(D, n, sigmas, device):
    return last(heun(D, sigmas[0].item() * torch.randn(n, 2, device=device), sigmas))


@torch.no_grad()
def plain_heun(main, guide, n, sigmas, device):
    """Heun's method and Domain Guidance written out, at n points."""
    x = sigmas[0] * torch.randn(n, 2, device=device)

    def slope(x, sigma):
        level = torch.full((n,), sigma, device=device)
        a, b = main(x, level, 0), guide(x, level, guide.null)
        return (x - b - W * (a - b)) / sigma

    for high, low in zip(sigmas[:-1], sigmas[1:], strict=True):
        d = slope(x, high)
        ahead = x + (low - high) * d
        x = x + (low - high) * (d + slope(ahead, low)) / 2 if low > 0 else ahead
    return x


def memory(device):
    """Peak memory of sampling on the GPU: what four times the samples, or the steps, multiply it by."""
    net = MLP(**NETWORK).to(device)
    peaks = []
    for n, steps in ((400_000, 16), (1_600_000, 16), (400_000, 64)):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        _sample(net.denoiser(0), n, karras(steps, *SIGMAS), device)
        peaks.append(torch.cuda.max_memory_allocated() - start)
    one, samples, steps = peaks
    note = f"linear in samples, flat in steps; {one / 2**20:.0f} MiB for 400,000 points"
    return row("peak memory, 4x samples | 4x steps", samples / one, steps / one, "times", note)


def photographs(nets=None):
    """Seconds of guided pictures from the photo model that ships, four at a time, and with PyTorch's GELU.

    nets: a fine-tune and its base, by default "photos64-food" and "photos64".
    """
    pictures, steps, batch = 12, 20, 4
    tuned, base = nets or (shipped.load("photos64-food"), shipped.load("photos64"))
    D = domain_guidance(tuned.denoiser(torch.arange(batch)), base.denoiser(base.null), W)
    x, sigma = torch.randn(batch, *base.shape), torch.tensor(1.0)
    took = seconds(dict(ours=lambda: D(x, sigma), plain=lambda: in_plain_gelu(D, x, sigma)), "cpu")
    ours, plain = (took[name] * steps * pictures / batch for name in ("ours", "plain"))
    note = f"float32, {batch} at a time, timed on one step; plain: GELU as PyTorch has it"
    return row(f"{pictures} pictures in {steps} guided steps, photos64", ours, plain, "s", note, plain / ours)


def in_plain_gelu(D, x, sigma):
    """D(x, sigma) of a DiT, with GELU as PyTorch computes it."""
    kept, network.gelu = network.gelu, functools.partial(torch.nn.functional.gelu, approximate="tanh")
    try:
        return D(x, sigma)
    finally:
        network.gelu = kept


def importing():
    """Seconds that importing dgtoy adds to importing torch, and torch's own; medians of five processes."""
    code = (
        "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); import dgtoy; "
        "print(b - a, time.perf_counter() - b)"
    )
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(5)]
    plain, ours = (statistics.median(float(run.split()[i]) for run in runs) for i in (0, 1))
    return row("import dgtoy, after import torch", ours, plain, "s", "plain: import torch itself")
