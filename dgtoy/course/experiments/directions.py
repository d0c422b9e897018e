"""Directions: those that a domain is narrow in, and what a sampler does to each. (C14, C20, C31)

On the ODE dx / d ln sigma = x - D(x, sigma) the spread of any sampler's x along a direction v follows exactly

    d ln std(v.x) / d ln sigma = 1 - beta,   beta = cov(v.x, v.D) / var(v.x),

so what a guide adds to it is (w - 1) (beta_main - beta_guide) at every sigma: its push.
"""

import numpy as np
import torch
from scipy.linalg import eigh

from ...guidance import guided
from ...samplers import dpmpp_2m, last


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
    leading = [len(gram) - rank, len(gram) - 1]
    square, v = map(torch.from_numpy, eigh(gram.numpy(), subset_by_index=leading))
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


def short(value):
    """A number to five digits."""
    return float(f"{float(value):.5g}")


def listed(values):
    """Numbers to five digits, as a list."""
    return [short(v) for v in values]


def walk(main, guide, w, x_T, sigmas, axes):
    """One path: `states`, x at the beginning of every step, and there x and what both denoisers give, along
    `axes` (D, d): `x`, `main`, `guide` (steps, n, d). Where w is 1 there is no guide."""
    states, seen = [], dict(x=[], main=[], guide=[])

    def watched(D, name):
        def watching(x, sigma):
            x0_hat = D(x, sigma)
            seen[name].append(x0_hat.flatten(1) @ axes)
            return x0_hat

        return watching

    def at_start(i, sigma, x, x0_hat):
        states.append(x)
        seen["x"].append(x.flatten(1) @ axes)

    D = guided(watched(main, "main"), watched(guide, "guide"), w)
    last(dpmpp_2m(D, x_T, sigmas, at_start))
    return dict(states=states) | {name: torch.stack(v).double().cpu() for name, v in seen.items() if v}


def beta(x, x0_hat):
    """The slope of the denoiser on x over the samples, along each direction.
    (steps, n, d) each -> (steps, d)"""
    x, x0_hat = x - x.mean(1, keepdim=True), x0_hat - x0_hat.mean(1, keepdim=True)
    return (x * x0_hat).sum(1) / x.square().sum(1)


def narrowing(path, sigmas, w):
    """Of each direction: `std` where the last step begins, the `change` of its log since the first, the
    change by the `law`, and the part of it that is the guide's `push`."""
    sigmas = sigmas[: len(path["x"])].log()
    std = path["x"].std(1)
    of_main = beta(path["x"], path["main"])
    pushed = torch.zeros_like(of_main)
    if "guide" in path:
        pushed = (w - 1) * (of_main - beta(path["x"], path["guide"]))
    return dict(
        std=listed(std[-1]),
        change=listed((std[-1] / std[0]).log()),
        law=listed(torch.trapezoid(1 - of_main - pushed, sigmas, dim=0)),
        push=listed(-torch.trapezoid(pushed, sigmas, dim=0)),
    )
