"""Directions that a domain is narrow in: generalized eigenvectors of target and source, for the closed form beyond Gaussians. (C20)"""

import numpy as np
import torch
from scipy.linalg import eigh


def within(z, label):
    """Std of z (n, d) around the means of its classes, pooled.  -> (d,)"""
    means = torch.stack([z[label == c].mean(0) for c in range(int(label.max()) + 1)])
    return ((z - means[label]).square().sum(0) / (len(z) - len(means))).sqrt()


def generalized(source, target, label, rank=64):
    """C_T v = r^2 C_S v, C_T the target's covariance within a class, inside the `rank` leading principal directions of the source.

    source (m, D), target (n, D), label (n,), float64 on the CPU -> V (D, rank), r (rank,)
    """
    d = source.shape[1]
    basis = torch.from_numpy(
        eigh(torch.cov(source.T).numpy(), subset_by_index=[d - rank, d - 1])[1]
    )  # (D, rank)
    s, t = source @ basis, target @ basis
    t = t - torch.stack([t[label == c].mean(0) for c in range(int(label.max()) + 1)])[label]
    ratio, v = eigh(torch.cov(t.T).numpy(), torch.cov(s.T).numpy())
    return basis @ torch.from_numpy(v), np.sqrt(np.clip(ratio, 0, None))
