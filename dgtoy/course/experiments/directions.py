"""Directions that a domain is narrow in: generalized eigenvectors of target and source, for the closed
form beyond Gaussians. (C14, C20)"""

import numpy as np
import torch
from scipy.linalg import eigh


def centred(z, label):
    """z (n, d) around the means of its classes."""
    means = torch.stack([z[label == c].mean(0) for c in range(int(label.max()) + 1)])
    return z - means[label]


def within(z, label):
    """Std of z (n, d) around the means of its classes, pooled.  -> (d,)"""
    return (centred(z, label).square().sum(0) / (len(z) - int(label.max()) - 1)).sqrt()


def principal(x, rank):
    """The `rank` leading principal directions of x (n, D), as columns.  -> (D, rank)

    x'x v = s^2 v is solved as it stands or, where points are fewer than dimensions, as xx'u = s^2 u
    with v = x'u / s.
    """
    x = x - x.mean(0)
    few = len(x) < x.shape[1]
    gram = x @ x.T if few else x.T @ x
    last = [len(gram) - rank, len(gram) - 1]
    square, v = map(torch.from_numpy, eigh(gram.numpy(), subset_by_index=last))
    return x.T @ v / square.sqrt() if few else v


def generalized(source, target, label, rank=64):
    """C_T v = r^2 C_S v, C_T the target's covariance within a class, inside the `rank` leading principal
    directions of the source.

    source (m, D), target (n, D), label (n,), float64 on the CPU -> V (D, rank), r (rank,)
    """
    basis = principal(source, rank)
    s, t = source @ basis, centred(target @ basis, label)
    ratio, v = eigh(torch.cov(t.T).numpy(), torch.cov(s.T).numpy())
    return basis @ torch.from_numpy(v), np.sqrt(np.clip(ratio, 0, None))
