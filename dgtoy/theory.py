"""Closed forms: what guidance does to Gaussians, and what Domain Guidance adds to classifier-free guidance."""

import math

import numpy as np
import torch
from scipy.integrate import quad_vec

from .gmm import GaussianMixture


def gaussian_guidance(target, source, w, interval=(0.0, math.inf)):
    """Exact end of the guided probability-flow ODE when source and target are Gaussian, direction by direction.

    target, source: (mean, std), numbers or arrays with one entry a direction. Inside `interval` the score is
    (1 - w) score_source + w score_target, outside it the target's.  -> (mean, std) of the samples.
    With R(sigma) = ((s_T^2 + sigma^2) / (s_S^2 + sigma^2))^((w-1)/2) the end std is s_T R(lo) / R(hi); over all sigma
    that is s_T (s_T / s_S)^(w-1). The mean is the integral of `gaussian_endpoint`.
    Raises ValueError if w is not finite, a std is not positive or the interval is empty.
    """
    if not math.isfinite(w):
        raise ValueError(f"w is {w}; expected a finite number")
    return gaussian_endpoint([(1 - w, *source), (w, *target)], interval)


def gaussian_endpoint(parts, interval=(0.0, math.inf)):
    """Exact end of the probability-flow ODE under an affine combination of Gaussians' scores.

    parts: [(weight, mean, std), ...] with weights summing to 1, mean and std numbers or arrays. From sigma = inf to 0,
        dx/dsigma = sigma sum_i weight_i (x - mu_i) / (s_i^2 + sigma^2),
    so with Phi(sigma) = prod_i (s_i^2 + sigma^2)^(weight_i / 2) the samples have
        std  = Phi(0) = prod_i s_i^weight_i,
        mean = int_0^inf Phi(0)/Phi(sigma) sigma sum_i weight_i mu_i / (s_i^2 + sigma^2) dsigma.   -> (mean, std)
    Outside `interval` only the last part acts, with weight 1.
    Raises ValueError if the weights do not sum to 1, a std is not positive or the interval is empty.
    """
    lo, hi = interval
    if not 0 <= lo < hi:
        raise ValueError(f"interval is ({lo}, {hi}); expected 0 <= lo < hi")
    weights, means, stds = _columns(parts)
    off = np.zeros_like(weights)
    off[-1] = 1.0
    centre = means[-1]  # the mean is shift-equivariant: integrate what is left
    bounds = np.clip([lo, hi], 1e-9 * stds.min(), 1e9 * stds.max())

    def log_phi(sigma):  # log Phi(sigma) / Phi(0), weights switching at lo and hi
        below, between, above = np.clip(sigma, 0, lo), np.clip(sigma, lo, hi), max(sigma, hi)
        grow = lambda lam, s, t: (lam * np.log((stds**2 + t**2) / (stds**2 + s**2)) / 2).sum(0)
        return grow(off, 0, below) + grow(weights, lo, between) + (grow(off, hi, above) if sigma > hi else 0)

    def integrand(v):  # over v = ln sigma: every scale of the problem counts alike
        sigma = math.exp(v)
        lam = weights if lo <= sigma <= hi else off
        return np.exp(-log_phi(sigma)) * sigma**2 * (lam * (means - centre) / (stds**2 + sigma**2)).sum(0)

    breaks = [math.log(b) for b in np.unique(stds)]
    mean = quad_vec(integrand, *np.log(bounds), epsabs=1e-13, epsrel=1e-10, points=breaks)[0]
    far = 1e9 * stds.max()  # x / sigma is standard normal out there
    std = far * np.exp(-log_phi(far))
    return _plain(centre + mean), _plain(std)


def tilted(target, source, w, x, sigma=0.0):
    """log of the density that guidance is often said to sample, p_S^(1-w) p_T^w / Z, on a grid.

    target, source: mixtures. x (N, D): the points of a regular grid; Z makes the sum over the grid 1. sigma: tilts the blurred densities.  -> (N,)
    Guided sampling does not sample it: Bradley & Nakkiran 2024 (arXiv 2408.09000), claim C2.
    """
    return ((1 - w) * source.logp(x, sigma) + w * target.logp(x, sigma)).log_softmax(0)


def alignment(mixture, domains, label, domain, x, sigma):
    """The three scores of which Domain Guidance is made, each from its own definition.

    Source and target live in one labelled mixture; `domains` (K,) assigns each component to a domain. With c the
    label and D the domain, Bayes' rule p(x | c, D) / p(x) = p(c | x, D) p(D | x) / p(c, D) gives
        DoG = grad log p(x | c, D) + (w - 1) [grad log p(c | x, D) + grad log p(D | x)]:
    the term of classifier-free guidance inside the domain, plus a term that pulls towards the domain.
    x (B, D), sigma () or (B,). -> conditional, class term, domain term, each (B, D). Zhong et al. 2025, sec. 3.
    Raises ValueError if no component has that label in that domain.
    """
    domains = torch.as_tensor(domains)
    in_domain = domains == domain
    wanted = in_domain & (mixture.labels == label)
    if not wanted.any():
        raise ValueError(f"label {label} has no component in domain {domain}")
    conditional = _part(mixture, wanted).score(x, sigma)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        log_r = mixture.log_responsibilities(x, sigma)  # log p(k | x)
        log_cd, log_d = (log_r[..., keep].logsumexp(-1) for keep in (wanted, in_domain))
        (class_term,) = torch.autograd.grad((log_cd - log_d).sum(), x, retain_graph=True)
        (domain_term,) = torch.autograd.grad(log_d.sum(), x)
    return conditional, class_term, domain_term


def _part(mixture, keep):
    w = mixture.weights[keep]
    return GaussianMixture(w / w.sum(), mixture.means[keep], mixture.covs[keep])


def _columns(parts):
    """parts as weights (n, 1), means (n, dirs), stds (n, dirs), or without the last axis for numbers."""
    weights = np.array([float(p[0]) for p in parts])
    if not np.isfinite(weights).all() or abs(weights.sum() - 1) > 1e-9:
        raise ValueError(f"the weights of parts sum to {weights.sum():g}; expected 1")
    means, stds = (
        np.stack(np.broadcast_arrays(*[np.asarray(p[i], dtype=float) for p in parts])) for i in (1, 2)
    )
    means, stds = np.broadcast_arrays(means, stds) if means.ndim == stds.ndim else _match(means, stds)
    if not np.isfinite(means).all():
        raise ValueError(f"a mean of parts is {means[~np.isfinite(means)][0]}; expected finite numbers")
    if not (np.isfinite(stds) & (stds > 0)).all():
        raise ValueError(f"a std of parts is {stds.min():g}; expected positive, finite numbers")
    return weights.reshape(-1, *(1,) * (means.ndim - 1)), means, stds


def _match(means, stds):
    """Give the one without a direction axis that axis."""
    while means.ndim < stds.ndim:
        means = means[..., None]
    while stds.ndim < means.ndim:
        stds = stds[..., None]
    return np.broadcast_arrays(means, stds)


def _plain(value):
    return float(value) if np.ndim(value) == 0 else value
