"""How `shipped.patches.PatchNet` learns: whitening, then k-means, on patches of the source of photographs."""

import dataclasses

import torch

from ...shipped.patches import PatchNet, patches


@dataclasses.dataclass(frozen=True)
class Config:
    """centres: of k-means. pictures, patches: how many are drawn. rounds: of k-means. floor: added to the
    variances that whitening divides by, so that noise is not blown up."""

    centres: int = 320
    pictures: int = 4000
    patches: int = 200_000
    rounds: int = 12
    floor: float = 0.1


def learn(x, config, seed=0):
    """A `PatchNet` from pictures x (N, 3, 64, 64) uint8."""
    generator = torch.Generator().manual_seed(seed)
    some = x[torch.randperm(len(x), generator=generator)[: config.pictures]]
    p = torch.cat([_drawn(part, config, generator) for part in some.split(500)])
    net = PatchNet(config.centres)
    net.mean.copy_(p.mean(0))
    variances, axes = torch.linalg.eigh(torch.cov(p.T))
    net.whiten.copy_(axes * (variances + config.floor).rsqrt() @ axes.T)
    net.centres.copy_(kmeans(net.white(p), config.centres, config.rounds, generator))
    return net


def _drawn(part, config, generator):
    """Its share of the patches, at random.  -> (n, 108)"""
    found = patches(part).flatten(0, 1)
    n = -(-config.patches * len(part) // config.pictures)
    return found[torch.randint(len(found), (n,), generator=generator)]


def kmeans(x, k, rounds, generator):
    """Centres (k, D) of points x (n, D) after rounds of Lloyd 1982; one without points starts anew."""
    centres = x[torch.randperm(len(x), generator=generator)[:k]]
    for _ in range(rounds):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in x.split(20_000)])
        counts = nearest.bincount(minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        anew = x[torch.randint(len(x), (k,), generator=generator)]
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], anew)
    return centres
